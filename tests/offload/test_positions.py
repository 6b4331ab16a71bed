"""Positions that depend on the length of the whole sequence: the tokens of plain transformers, or one line before."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

import offload
from offload.offloaded_model import OffloadedModel
from offload.old_transformers import is_old
from offload.positions import Positions, longest_context
from tests.offload.zoo import generate, loaded, make_inputs, plain_model, save_model, smallest_budget
from tiers.errors import BudgetError, InvalidOptionError

BORDER = 128
_LONG: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 8,
    "long_factor": [3.0] * 8,
}
_PHI3: dict[str, Any] = {"original_max_position_embeddings": BORDER}
_INSIDE: dict[str, Any] = {"original_max_position_embeddings": BORDER, "factor": 4.0}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, dynamic": (
        "llama",
        {
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
            "max_position_embeddings": BORDER,
        },
    ),
    "llama, long": ("llama", {"rope_parameters": _LONG | _INSIDE}),
}
AGAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "phi3, which begins again all the same": ("phi3", _PHI3),
    "phi3, long": ("phi3", _PHI3 | {"rope_parameters": _LONG}),
    "phimoe, long": (
        "phimoe",
        {
            "rope_parameters": _LONG | _INSIDE | {"short_mscale": 1.1, "long_mscale": 1.3},
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
        },
    ),
}
if not is_old():  # refused there, see old_transformers
    FAMILIES |= AGAIN


@pytest.fixture(scope="module", params=FAMILIES)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model_type, changes = FAMILIES[request.param]
    return save_model(tmp_path_factory.mktemp("model") / "model", model_type, **changes)


@pytest.fixture
def phi3(tmp_path: Path) -> Path:
    if is_old():
        pytest.skip("Phi-3 that outgrows its original context is refused on transformers before 5.21")
    model_type, changes = AGAIN["phi3, long"]
    return save_model(tmp_path / "model", model_type, **changes)


_slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("prompt", "new"),
    [(124, 8), (BORDER + 1, 3), *(pytest.param(*case, marks=_slow) for case in ((70, 70), (BORDER, 4), (200, 4)))],
)
def test_around_the_border(path: Path, tmp_path: Path, prompt: int, new: int) -> None:
    """From a prompt below it, at it and above: all on the device, in the smallest budget, and in a drive."""
    workload = {"prompt_tokens": prompt, "new_tokens": new, "batch": 2}
    inputs = make_inputs(prompt, (0, 40))
    expected = generate(plain_model(path), inputs, new)
    least = smallest_budget(path, tmp_path / "nvme", **workload)
    for budget in ({}, {"device_memory": least}, {"csd": 1}):
        with loaded(path, **workload, **budget, nvme_dir=tmp_path / "nvme") as model:
            assert generate(model, inputs, new) == expected, budget


def test_below_the_border_in_pieces(path: Path, tmp_path: Path) -> None:
    workload = {"prompt_tokens": 120, "new_tokens": 5}
    inputs = make_inputs(120)
    least = smallest_budget(path, tmp_path / "nvme", **workload)
    with loaded(path, **workload, device_memory=least, nvme_dir=tmp_path / "nvme") as model:
        assert model.runtime.prefill_chunk_tokens == 64
        assert generate(model, inputs, 5) == generate(plain_model(path), inputs, 5)


def test_beams(path: Path) -> None:
    inputs = make_inputs(120)
    with loaded(path, prompt_tokens=120, new_tokens=12, batch=3) as model:
        expected = generate(plain_model(path), inputs, 12, num_beams=3)
        assert generate(model, inputs, 12, num_beams=3) == expected


def test_a_conversation(path: Path) -> None:
    """Over the border in the middle of its second turn, and on from there."""
    plain, theirs = plain_model(path), DynamicCache()
    said = make_inputs(90)["input_ids"]
    with loaded(path, prompt_tokens=90, new_tokens=120) as model, model.new_cache() as ours:
        for words, new in ((0, 10), (20, 30), (25, 10)):
            said = torch.cat([said, make_inputs(words)["input_ids"]], dim=1)
            inputs = {"input_ids": said, "attention_mask": torch.ones_like(said)}
            expected = generate(plain, inputs, new, past_key_values=theirs)
            assert generate(model, inputs, new, past_key_values=ours) == expected
            said = torch.cat([said, torch.tensor(expected)], dim=1)
        assert ours.get_seq_length() == said.shape[1] - 1, "what is begun again goes into the cache that was given"


def _in_pieces(path: Path, nvme_dir: Path, **changes: int) -> Any:
    """Planned for a prompt below the border, in pieces, and nothing beyond it."""
    workload = {"prompt_tokens": 120, "new_tokens": 5, **changes}
    least = smallest_budget(path, nvme_dir, **workload)
    return loaded(path, **workload, device_memory=int(1.1 * least), nvme_dir=nvme_dir)


def _refuses(model: OffloadedModel, reason: str, prompt: int, new: int, **options: Any) -> None:
    with pytest.raises(InvalidOptionError, match=reason) as caught:
        generate(model, make_inputs(prompt), new, **options)
    assert "\n" not in str(caught.value)


def test_beyond_what_was_planned(phi3: Path, tmp_path: Path) -> None:
    with _in_pieces(phi3, tmp_path / "nvme") as model:
        _refuses(
            model, "a prompt of 200 tokens does not fit in one piece of 64, .* allow no pieces; shorten it", 200, 4
        )
        reason = "120 tokens and 10 new: beyond 128 tokens .* at most 9 new tokens or raise --device-memory"
        _refuses(model, reason, 120, 10)
        assert len(generate(model, make_inputs(120), 9)[0]) == 9
        with pytest.raises(InvalidOptionError, match="120 tokens and 20 new"):
            model.generate(**make_inputs(120))


def test_a_length_in_all_says_how_many_are_new(phi3: Path, tmp_path: Path) -> None:
    with _in_pieces(phi3, tmp_path / "nvme") as model:
        answer = model.generate(**make_inputs(120), max_length=126, min_length=126, do_sample=False)
    assert answer.shape[1] == 126


def test_the_next_turn_in_pieces(phi3: Path, tmp_path: Path) -> None:
    """It may take what is new in one piece, unless all of it begins again."""
    with _in_pieces(phi3, tmp_path / "nvme") as model, model.new_cache() as cache:
        generate(model, make_inputs(100), 2, past_key_values=cache)
        _refuses(model, "a prompt of 130 tokens does not fit", 130, 2, past_key_values=cache)
        assert cache.get_seq_length() == 101, "nothing was done"


def test_the_next_turn_with_dynamic_positions(tmp_path: Path) -> None:
    model_type, changes = FAMILIES["llama, dynamic"]
    path = save_model(tmp_path / "model", model_type, **changes)
    plain, theirs = plain_model(path), DynamicCache()
    with _in_pieces(path, tmp_path / "nvme", new_tokens=60) as model, model.new_cache() as ours:
        for cache, one in ((ours, model), (theirs, plain)):
            generate(one, make_inputs(100), 2, past_key_values=cache)
        # Only what is new, with a mask of all.
        later = make_inputs(120) | {"attention_mask": torch.ones(1, 221, dtype=torch.long)}
        with pytest.raises(InvalidOptionError, match="a prompt of 221 tokens does not fit in one piece of 64"):
            generate(model, later, 2, past_key_values=ours)
        whole = make_inputs(160)
        assert generate(model, whole, 3, past_key_values=ours) == generate(plain, whole, 3, past_key_values=theirs)


def test_the_smallest_budget_is_named(phi3: Path, tmp_path: Path) -> None:
    """Where the whole sequence has to be taken at once, the plan makes room for that."""
    short, long = (smallest_budget(phi3, tmp_path / "nvme", prompt_tokens=100, new_tokens=new) for new in (29, 30))
    assert long > 1.5 * short
    budget: dict[str, Any] = {"device_memory": long - 4096, "nvme_dir": tmp_path / "nvme"}
    with pytest.raises(BudgetError, match=r"100 \+ 30 tokens; the smallest that works is \dMiB"):
        offload.load(phi3, prompt_tokens=100, new_tokens=30, **budget)


def test_how_much_is_taken_at_once() -> None:
    sizes: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4, "pad_token_id": 0}
    phi3 = Positions.of(Phi3Config(**_PHI3, rope_parameters=dict(_LONG), **sizes), Phi3ForCausalLM)
    llama = Positions.of(LlamaConfig(rope_parameters=_LONG | _INSIDE, **sizes), LlamaForCausalLM)
    default = Positions.of(LlamaConfig(**sizes), LlamaForCausalLM)
    assert (phi3.longest, llama.longest, default.longest) == (BORDER, BORDER, None)
    for prompt, new, held, taken in (
        (100, 29, 0, (0, 0, 0)),
        (100, 30, 0, (129, 0, 0)),
        (200, 1, 0, (200, 200, 0)),
        (200, 1, 90, (200, 110, 0)),
        (200, 1, 150, (50, 50, 0)),
    ):
        assert tuple(kind.uncut_tokens(prompt, new, held) for kind in (phi3, llama, default)) == taken


def test_dynamic_positions_go_beyond_the_context() -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    assert longest_context(LlamaConfig(max_position_embeddings=512, rope_parameters=rope)) == 1024
    assert longest_context(LlamaConfig(max_position_embeddings=512)) == 512
