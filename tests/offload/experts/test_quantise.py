"""Packed stores whose experts are kept in fewer bits."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from offload.experts.codecs.kernels import Kernels
from offload.experts.note import ExpertNote
from offload.experts.precision import Precisions, coldest
from offload.experts.precision_name import CHOICES, COLD
from offload.pack import pack
from simulators.expert_trace import ExpertTrace
from simulators.profile import DEFAULT
from tests.offload.zoo import loaded, make_inputs, save_model, smallest_budget
from tiers.block import ExpertKey
from tiers.errors import InvalidOptionError, ModelError
from tiers.packed_store import PackedStore

PROMPT = 40
WORKLOAD: dict[str, Any] = {"prompt_tokens": PROMPT, "new_tokens": 4, "batch": 1}
EXPERTS, TOP_K, LAYERS = 6, 2, 4

FAMILIES: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": EXPERTS, "num_experts_per_tok": TOP_K},
    "gpt_oss": {"num_local_experts": EXPERTS, "num_experts_per_tok": TOP_K, "head_dim": 16},
}
"""One that splits its experts; one that stacks and transposes them, interleaves gate and up, and has biases."""

CLOSE = {"int8": 0.02, "int4": 0.2, "int4-sparse": 0.2, "int3-sparse": 0.4, COLD: 0.6}
"""Largest difference of the logits, relative to their size."""


def trace(counts: list[list[int]]) -> ExpertTrace:
    """In which expert e of layer l is chosen ``counts[l][e]`` times, the same number of times in every layer."""
    chosen = np.stack([np.repeat(np.arange(len(row)), row) for row in counts], 1)
    tokens, layers = chosen.shape
    return ExpertTrace(
        model="a model",
        num_experts=len(counts[0]),
        layers=np.arange(layers, dtype=np.int32),
        tokens=np.zeros(tokens, np.int32),
        requests=np.zeros(tokens, np.int32),
        passes=np.arange(tokens, dtype=np.int32),
        experts=chosen[..., None].astype(np.int16),
        weights=np.ones((tokens, layers, 1), np.float16),
        gate_inputs=np.zeros((tokens, layers, 0), np.float16),
        gates=np.zeros((layers, len(counts[0]), 0), np.float32),
    )


def logits(path: Path, nvme: Path, **budget: Any) -> torch.Tensor:
    with loaded(path, nvme_dir=nvme, **WORKLOAD, **budget) as model, torch.inference_mode():
        cache = model.new_cache()
        found: torch.Tensor = model(**make_inputs(PROMPT), past_key_values=cache).logits
        cache.close()
        assert model.runtime.experts is not None
        model.runtime.experts.manager.check()
        return found


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("model_type", FAMILIES)
def test_close_to_the_checkpoint(model_type: str, choice: str, tmp_path: Path) -> None:
    # All experts for every token: a router that chose otherwise would make a difference of another kind.
    path = save_model(tmp_path / "model", model_type, **(FAMILIES[model_type] | {"num_experts_per_tok": EXPERTS}))
    cold = trace([[9, 8, 7, 6, 2, 1]] * LAYERS) if choice == COLD else None
    result = pack(path, tmp_path / "packed", experts=choice, trace=cold)
    reference = logits(path, tmp_path / "nvme")
    found = logits(tmp_path / "packed", tmp_path / "nvme")
    assert 0 < (found - reference).norm() / reference.norm() < CLOSE[choice]
    note = ExpertNote.load(tmp_path / "packed")
    assert note is not None
    assert (note.precision, note.relative_error) == (choice, result.expert_error)
    assert result.expert_error is not None
    assert 0 < result.expert_error < 0.4


@pytest.mark.parametrize("model_type", FAMILIES)
def test_nothing_depends_on_the_budget(model_type: str, tmp_path: Path) -> None:
    path = save_model(tmp_path / "model", model_type, **FAMILIES[model_type])
    pack(path, tmp_path / "packed", experts="int4")
    least = smallest_budget(tmp_path / "packed", tmp_path / "nvme", **WORKLOAD)
    everything = logits(tmp_path / "packed", tmp_path / "nvme")
    assert torch.equal(logits(tmp_path / "packed", tmp_path / "nvme", device_memory=least), everything)


def test_a_profile_chooses_the_kernel(tmp_path: Path) -> None:
    """The layers of a loaded model multiply by what the machine's profile says is fastest."""
    path = save_model(tmp_path / "model", "mixtral", **FAMILIES["mixtral"])
    pack(path, tmp_path / "packed", experts="int8")
    for measured, expected in ((None, Kernels()), ({"int8": 3}, Kernels(int8=3))):
        profile = replace(DEFAULT, kernels=measured)
        with loaded(tmp_path / "packed", nvme_dir=tmp_path / "nvme", profile=profile, **WORKLOAD) as model:
            assert model.runtime.experts is not None
            layouts = model.runtime.experts._layouts.values()
            assert {matrix.kernels for layout in layouts for matrix in (*layout.up, layout.down)} == {expected}


def test_a_store_is_smaller_and_says_what_it_holds(tmp_path: Path) -> None:
    path = save_model(tmp_path / "model", "mixtral", **FAMILIES["mixtral"])
    sizes = {}
    for choice in ("int8", "int4"):
        pack(path, tmp_path / choice, experts=choice)
        store = PackedStore(tmp_path / choice)
        experts = [group for group in store.groups if group.kind == "expert"]
        store.close()
        assert {group.key.precision for group in experts if isinstance(group.key, ExpertKey)} == {choice}
        sizes[choice] = sum(spec.nbytes for group in experts for spec in group.tensors)
    stored = LAYERS * EXPERTS * 3 * 64 * 128 * 4
    assert sizes["int8"] < 0.28 * stored
    assert sizes["int4"] < 0.16 * stored


def test_seldom_chosen_experts_get_two_bits(tmp_path: Path) -> None:
    counts = [[10, 1, 10, 2, 5, 5], [5, 5, 5, 6, 6, 6], [0, 0, 33, 0, 0, 0], [11, 11, 11, 0, 0, 0]]
    recorded = trace(counts)
    assert coldest(recorded) == {(0, 1), (0, 3), (0, 4)} | {(1, 0)} | {
        (2, 0), (2, 1), (2, 3), (2, 4), (2, 5),
        (3, 3), (3, 4), (3, 5),
    }  # fmt: skip
    path = save_model(tmp_path / "model", "mixtral", **FAMILIES["mixtral"])
    pack(path, tmp_path / "packed", experts=COLD, trace=recorded)
    store = PackedStore(tmp_path / "packed")
    found = {
        (group.key.layer, group.key.expert)
        for group in store.groups
        if isinstance(group.key, ExpertKey) and group.key.precision == "int2"
    }
    store.close()
    assert found == coldest(recorded)
    again = trace([list(reversed(row)) for row in counts])
    assert Precisions.parse(COLD, recorded).tag != Precisions.parse(COLD, again).tag


def test_what_cannot_be_done(tmp_path: Path) -> None:
    dense = save_model(tmp_path / "dense", "llama")
    with pytest.raises(ModelError, match="has no routed experts"):
        pack(dense, tmp_path / "packed", experts="int4")
    path = save_model(tmp_path / "model", "mixtral", **FAMILIES["mixtral"])
    with pytest.raises(InvalidOptionError, match="--experts int5: unknown; choose one of int8, int4"):
        pack(path, tmp_path / "packed", experts="int5")
    with pytest.raises(InvalidOptionError, match="record a trace with 'offload trace record'"):
        pack(path, tmp_path / "packed", experts=COLD)
    odd = save_model(tmp_path / "odd", "mixtral", intermediate_size=40, **FAMILIES["mixtral"])
    with pytest.raises(ModelError, match=r"int4 experts need .* not \[64, 40\]; take int8"):
        pack(odd, tmp_path / "packed", experts="int4")
    assert not (tmp_path / "packed").exists()


def test_tiles_of_another_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_model(tmp_path / "model", "mixtral", **FAMILIES["mixtral"])
    pack(path, tmp_path / "packed", experts="int4")
    monkeypatch.setattr("offload.experts.packed.products.tiles_here", lambda: "tiles16")
    with pytest.raises(ModelError, match=r"no 'tiles16_all' of int4 .*; the store was packed for another processor"):
        logits(tmp_path / "packed", tmp_path / "nvme")
