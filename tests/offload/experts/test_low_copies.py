"""Stores that hold every expert in two precisions, and runs that may use the lower one."""

from pathlib import Path
from typing import Any

import pytest
import torch
import zarr

from offload.experts.note import ExpertNote, LowNote
from offload.pack import pack
from tests.offload.zoo import generate, loaded, make_inputs, save_model, smallest_budget
from tiers.block import ExpertKey
from tiers.errors import InvalidOptionError
from tiers.manager import LookupResult
from tiers.packed_store import PackedStore

EXPERTS, TOP_K, LAYERS, PROMPT = 6, 3, 4, 24
SHAPE: dict[str, Any] = {"num_local_experts": EXPERTS, "num_experts_per_tok": TOP_K}
WORKLOAD: dict[str, Any] = {"prompt_tokens": PROMPT, "new_tokens": 8, "batch": 1}
FAMILIES = {"mixtral": SHAPE, "gpt_oss": SHAPE | {"head_dim": 16}}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model in int8+int2 and, beside it, in int8."""
    place = tmp_path_factory.mktemp("low")
    path = save_model(place / "model", "mixtral", **SHAPE)
    pack(path, place / "int8+int2", experts="int8+int2")
    pack(path, place / "int8", experts="int8")
    return place / "int8+int2"


def answer(path: Path, **settings: Any) -> tuple[torch.Tensor, list[list[int]], float]:
    """Logits of a prompt, tokens after it, and the share of the visits to low copies."""
    inputs = make_inputs(PROMPT)
    with loaded(path, **WORKLOAD, **settings) as model, torch.inference_mode():
        cache = model.new_cache()
        logits = model(**inputs, past_key_values=cache).logits
        cache.close()
        tokens = generate(model, inputs)
        experts = model.runtime.experts
        assert experts is not None
        experts.manager.check()
        low = experts.low_copies
        return logits, tokens, low.num_low / low.num_visits if low else 0.0


@pytest.mark.parametrize("choice", ["int8+int2", "stored+int4"])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_expert_is_there_twice(model_type: str, choice: str, tmp_path: Path) -> None:
    path = save_model(tmp_path / "model", model_type, **FAMILIES[model_type])
    pack(path, tmp_path / "packed", experts=choice)
    high, low = choice.split("+")
    store = PackedStore(tmp_path / "packed")
    found = {(group.key, group.kind) for group in store.groups if isinstance(group.key, ExpertKey)}
    places = [(layer, expert) for layer in range(LAYERS) for expert in range(EXPERTS)]
    assert found == {(ExpertKey(*place, high), "expert") for place in places} | {
        (ExpertKey(*place, low), "low_expert") for place in places
    }
    nbytes = {kind: [group.nbytes for group in store.groups if group.kind == kind] for kind in ("expert", "low_expert")}
    assert max(nbytes["low_expert"]) < min(nbytes["expert"])
    store.close()
    assert zarr.open_group(tmp_path / "packed", mode="r")["layers.1.experts.low"].shape[0] == EXPERTS  # type: ignore[union-attr]
    note = ExpertNote.load(tmp_path / "packed")
    assert note is not None
    assert note.low is not None
    assert (note.precision, note.low.precision) == (choice, low)
    assert note.relative_error < 0.01 < note.low.relative_error
    settings = {"nvme_dir": tmp_path / "nvme", "miss_precision": "low"}
    logits, _, share = answer(tmp_path / "packed", **settings)
    reference, _, _ = answer(path, nvme_dir=tmp_path / "nvme")
    assert 0.1 < share < 0.6
    assert 0 < (logits - reference).norm() / reference.norm() < 0.5


def test_low_copies_are_used_by_nobody_who_did_not_ask(packed: Path, tmp_path: Path) -> None:
    logits, tokens, share = answer(packed, nvme_dir=tmp_path)
    expected, expected_tokens, _ = answer(packed.with_name("int8"), nvme_dir=tmp_path)
    assert torch.equal(logits, expected)
    assert (tokens, share) == (expected_tokens, 0.0)
    # Nor do they take part in the plan.
    sizes = [smallest_budget(path, tmp_path, **WORKLOAD) for path in (packed, packed.with_name("int8"))]
    assert sizes[0] == sizes[1]


def test_wherever_they_add_little_nothing_depends_on_the_budget(packed: Path, tmp_path: Path) -> None:
    least = smallest_budget(packed, tmp_path, **WORKLOAD)
    logits, tokens, share = answer(packed, nvme_dir=tmp_path, miss_precision="low")
    again, same, again_share = answer(packed, nvme_dir=tmp_path, miss_precision="low", device_memory=least)
    assert torch.equal(logits, again)
    assert (tokens, share) == (same, again_share)
    assert not torch.equal(logits, answer(packed, nvme_dir=tmp_path)[0])


@pytest.mark.parametrize("predictor", ["none", "next_gate"])
def test_only_what_is_missing_is_fetched_in_the_low_precision(packed: Path, predictor: str, tmp_path: Path) -> None:
    least = smallest_budget(packed, tmp_path, **WORKLOAD)
    mixed = {"nvme_dir": tmp_path, "miss_precision": "mixed", "predictor": predictor}
    _, _, always = answer(packed, **mixed | {"miss_precision": "low"}, device_memory=least)
    _, _, share = answer(packed, **mixed, device_memory=least)
    assert 0 < share <= always
    logits, _, share = answer(packed, **mixed)
    assert share == 0.0
    assert torch.equal(logits, answer(packed, nvme_dir=tmp_path)[0]), "everything stays, nothing is missing"


def test_a_low_copy_makes_way_when_the_exact_one_is_wanted(packed: Path, tmp_path: Path) -> None:
    least = smallest_budget(packed, tmp_path, **WORKLOAD)
    settings: dict[str, Any] = {"nvme_dir": tmp_path, "device_memory": least, "miss_precision": "mixed"}
    exact, low = ExpertKey(0, 1, "int8"), ExpertKey(0, 1, "int2")
    with loaded(packed, **WORKLOAD, **settings) as model:
        experts = model.runtime.experts
        assert experts is not None
        copies, lookup = experts.low_copies, experts.manager.lookup
        assert copies is not None
        for is_spared, chosen in ((True, low), (False, exact), (True, exact)):
            copies.rule._spared = {0: {1}} if is_spared else {}
            assert copies.choose([exact]) == [chosen]
            assert lookup(low) is LookupResult.BELOW
            for _ in experts.visit([chosen]):
                assert lookup(chosen) is LookupResult.HIT
            experts.manager.check()
        assert (copies.num_visits, copies.num_low) == (3, 1)


def test_what_cannot_be_done(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InvalidOptionError, match=r"--miss-precision mixed: .*int8 keeps no expert in two precisions; run"
    ):
        answer(packed.with_name("int8"), nvme_dir=tmp_path, miss_precision="mixed")
    with pytest.raises(
        InvalidOptionError, match="miss_precision: 'skip' is no precision on a miss; write one of high,"
    ):
        answer(packed, nvme_dir=tmp_path, miss_precision="skip")
    for wrong in ("int2+int8", "int4+int4", "int8+int5", "int8+", "int8+int4+int2"):
        with pytest.raises(InvalidOptionError, match="not a precision and a lower one; write two of stored, int8"):
            pack(packed.with_name("model"), tmp_path / "out", experts=wrong)


def test_what_is_told_of_the_loss() -> None:
    note = ExpertNote("int8+int2", 0.006, 10.0, 10.1, 512, LowNote("int2", 0.18, 10.4, 10.3))
    assert note.told(with_low=False).endswith("perplexity 10.00 -> 10.10 on 512 tokens")
    assert note.told(with_low=True).endswith(
        "; in int2 where they add little: weights differ by 18.0%, perplexity at worst 10.40, of a prompt 10.30"
    )
