"""Families of mixtures of experts: the tokens of plain transformers, whatever part of the experts is cached."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pytest

from offload.pack import pack
from prefetch.calibration import Calibration
from prefetch.next_gate import NextGatePredictor
from tests.offload.zoo import generate, loaded, make_inputs, plain_model, save_model, smallest_budget
from tiers.errors import BudgetError, CorruptBlockError, ModelError

PROMPT, NEW = 40, 6
WORKLOAD: dict[str, Any] = {"prompt_tokens": PROMPT, "new_tokens": NEW, "batch": 2}

_LOCAL = {"num_local_experts": 6, "num_experts_per_tok": 2}
_PLAIN = {"num_experts": 6, "num_experts_per_tok": 2}
_ROUTED = {"n_routed_experts": 6, "num_experts_per_tok": 2}
_NARROW = {"moe_intermediate_size": 48}
_HEAD = {"head_dim": 16}
_MIXED = ["sliding_attention", "full_attention"] * 2

FAMILIES: dict[str, dict[str, Any]] = {
    "afmoe": _PLAIN | _NARROW | _HEAD,
    "dots1": _ROUTED | _NARROW | _HEAD | {"n_shared_experts": 1, "first_k_dense_replace": 1},
    "ernie4_5_moe": {"moe_num_experts": 6, "moe_k": 2} | _NARROW,
    "exaone_moe": _PLAIN | _NARROW | _HEAD,
    "flex_olmo": _PLAIN,
    "glm4_moe": _ROUTED | _NARROW | _HEAD | {"n_shared_experts": 1, "first_k_dense_replace": 1},
    "gpt_oss": _LOCAL | _HEAD | {"sliding_window": 16, "layer_types": _MIXED},
    "granitemoe": _LOCAL,
    "granitemoeshared": _LOCAL | {"shared_intermediate_size": 32},
    "hunyuan_v1_moe": {"num_experts": 6, "moe_topk": 2} | _HEAD,
    "minimax_m2": _LOCAL | _HEAD,
    "mixtral": _LOCAL,
    "olmoe": _PLAIN,
    "phimoe": _LOCAL,
    "qwen2_moe": _PLAIN | _NARROW | {"shared_expert_intermediate_size": 32},
    "qwen3_moe": _PLAIN | _NARROW | _HEAD,
    "solar_open": _ROUTED | _NARROW | _HEAD,
}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_tokens_at_several_sizes_of_the_cache(model_type: str, tmp_path: Path) -> None:
    """All experts; as few as one token visits in a layer; and so many more that some survive a pass."""
    path = save_model(tmp_path / "model", model_type, **FAMILIES[model_type])
    inputs = make_inputs(PROMPT, (0, 11))
    expected = generate(plain_model(path), inputs, NEW)
    with loaded(path, **WORKLOAD) as model:
        every = model.plan.expert_slots
        assert generate(model, inputs, NEW) == expected
    assert every == model.plan.expert_slots >= 16
    least = smallest_budget(path, tmp_path / "nvme", **WORKLOAD)
    most = model.plan.device_bytes_used
    slots = []
    for budget in (least, most - every // 2 * model.plan.expert_slot_nbytes):
        with loaded(path, device_memory=budget, nvme_dir=tmp_path / "nvme", **WORKLOAD) as model:
            assert generate(model, inputs, NEW) == expected
            assert model.runtime.experts is not None
            model.runtime.experts.manager.check()
            assert model.runtime.experts.manager.stats.misses > every
            slots.append(model.plan.expert_slots)
    assert slots[0] == 2 < slots[1] < every
    with (
        pytest.raises(BudgetError, match="the smallest that works is"),
        loaded(path, device_memory=least - 1, **WORKLOAD),
    ):
        raise AssertionError("was loaded")


class Sure(Calibration):
    """Every guess is worth fetching."""

    def share(self, kind: Hashable, prior: float = 0.0) -> float:
        return 1.0


@pytest.mark.parametrize("model_type", ["mixtral", "glm4_moe", "gpt_oss"])
def test_guesses_change_no_token(model_type: str, tmp_path: Path) -> None:
    """Fetched ahead by the next gate, right or wrong, from the first token on and in little room."""
    path = save_model(tmp_path / "model", model_type, **FAMILIES[model_type])
    inputs = make_inputs(PROMPT)
    expected = generate(plain_model(path), inputs, 24)
    with loaded(path, **WORKLOAD) as model:
        most, every = model.plan.device_bytes_used, model.plan.expert_slots
    for slots in (4, 9):
        budget = most - (every - slots) * model.plan.expert_slot_nbytes
        with loaded(path, device_memory=budget, nvme_dir=tmp_path / "nvme", **WORKLOAD) as model:
            experts = model.runtime.experts
            assert experts is not None
            assert isinstance(experts.predictor, NextGatePredictor)
            experts.predictor.calibration = Sure()
            assert generate(model, inputs, 24) == expected
            assert experts.manager.stats.pending_hits + experts.manager.stats.hits > 0
            assert experts.manager.stats.evictions > 0
            experts.manager.check()


@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss"])
def test_packed(model_type: str, tmp_path: Path) -> None:
    """Checkpoints that split experts and those that stack them become the same kind of store: a block an expert."""
    path = save_model(tmp_path / "model", model_type, **FAMILIES[model_type])
    inputs = make_inputs(PROMPT, (0, 11))
    expected = generate(plain_model(path), inputs, NEW)
    pack(path, tmp_path / "packed")
    budget = smallest_budget(tmp_path / "packed", tmp_path / "nvme", **WORKLOAD)
    with loaded(tmp_path / "packed", device_memory=budget, nvme_dir=tmp_path / "nvme", **WORKLOAD) as model:
        assert generate(model, inputs, NEW) == expected
        assert model.plan.expert_slots == 2


def test_experts_outside_the_interface(tmp_path: Path) -> None:
    path = save_model(tmp_path / "model", "jetmoe")
    with (
        pytest.raises(ModelError, match="'jetmoe' does not compute its experts through the experts interface"),
        loaded(path, **WORKLOAD),
    ):
        raise AssertionError("was loaded")


def test_an_expert_is_missing(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = save_model(tmp_path / "model", "mixtral", **FAMILIES["mixtral"])
    tensors = load_file(path / "model.safetensors")
    gone = [name for name in tensors if ".experts.5." in name and ".2." in name]
    save_file({n: t for n, t in tensors.items() if n not in gone}, path / "model.safetensors", {"format": "pt"})
    with (
        pytest.raises(ModelError, match=r"model.layers.2.mlp.experts has 6 experts, the checkpoint 5"),
        loaded(path, **WORKLOAD),
    ):
        raise AssertionError("was loaded")


def test_an_expert_that_changed_on_disk(tmp_path: Path) -> None:
    """Found when it is fetched; the others go on working, and no block is lost."""
    path = save_model(tmp_path / "model", "mixtral", **FAMILIES["mixtral"])
    pack(path, tmp_path / "packed")
    budget = smallest_budget(tmp_path / "packed", tmp_path / "nvme", **WORKLOAD)
    shard = next((tmp_path / "packed").rglob("layers.2.experts/c/0/0"))
    content = bytearray(shard.read_bytes())
    content[4096] ^= 1  # in the first expert
    shard.write_bytes(content)
    with loaded(tmp_path / "packed", device_memory=budget, nvme_dir=tmp_path / "nvme", **WORKLOAD) as model:
        with pytest.raises(CorruptBlockError, match=r"layers\.2\.experts\.0"):
            generate(model, make_inputs(PROMPT, (0, 11)), NEW)
        assert model.runtime.experts is not None
        model.runtime.experts.manager.check()
        assert not model.runtime.experts.manager._placement.pinned
