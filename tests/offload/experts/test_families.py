"""Families of mixtures of experts: the tokens of plain transformers, whatever part of the experts is cached."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from offload.architecture import read_architecture
from offload.experts.bind import gate_weights
from offload.pack import pack
from prefetch.calibration import Calibration
from prefetch.next_gate import NextGatePredictor
from tests.offload.experts.families import (
    KNOWN_UP_TO,
    REFUSED,
    WORKS,
    refused,
    registered,
    registered_otherwise,
    tiny,
    working,
)
from tests.offload.zoo import generate, loaded, make_inputs, plain_model, save_model, smallest_budget
from tiers.errors import BudgetError, CorruptBlockError, ModelError

PROMPT, NEW = 40, 6
WORKLOAD: dict[str, Any] = {"prompt_tokens": PROMPT, "new_tokens": NEW, "batch": 2}


@pytest.mark.parametrize("model_type", working())
def test_tokens_at_several_sizes_of_the_cache(model_type: str, tmp_path: Path) -> None:
    """All experts; as few as one token visits in a layer; and so many more that some survive a pass."""
    path = save_model(tmp_path / "model", model_type, **tiny(model_type))
    inputs = make_inputs(PROMPT, (0, 11))
    plain = plain_model(path)
    expected = generate(plain, inputs, NEW)
    with loaded(path, **WORKLOAD) as model:
        every = model.plan.expert_slots
        assert generate(model, inputs, NEW) == expected
    assert every == model.plan.expert_slots >= 12
    least = smallest_budget(path, tmp_path / "nvme", **WORKLOAD)
    most = model.plan.device_bytes_used
    slots = []
    # As transformers holds them in memory: all experts of a layer in one tensor.
    plain.save_pretrained(tmp_path / "stacked", save_original_format=False)
    for where, budget in ((path, least), (tmp_path / "stacked", most - every // 2 * model.plan.expert_slot_nbytes)):
        with loaded(where, device_memory=budget, nvme_dir=tmp_path / "nvme", **WORKLOAD) as model:
            assert generate(model, inputs, NEW) == expected
            assert model.runtime.experts is not None
            model.runtime.experts.manager.check()
            assert model.runtime.experts.manager.stats.misses > every
            assert model.plan.streamed or model.runtime.experts.predictor is not None, "every gate is found"
            slots.append(model.plan.expert_slots)
    assert slots[0] == 2 < slots[1] < every
    assert not model.plan.streamed


def test_gates_are_not_mistaken_for_shared_experts(tmp_path: Path) -> None:
    """Here one of these has as many rows as there are experts."""
    path = save_model(tmp_path / "model", "qwen2_moe", **tiny("qwen2_moe") | {"shared_expert_intermediate_size": 6})
    with loaded(path, **WORKLOAD) as model:
        gates = gate_weights(model)
    assert list(gates) == [0, 1, 2]
    weights = load_file(path / "model.safetensors")
    for layer, gate in gates.items():
        assert torch.equal(torch.from_numpy(gate), weights[f"model.layers.{layer}.mlp.gate.weight"])


def test_less_than_the_least(tmp_path: Path) -> None:
    path = save_model(tmp_path / "model", "mixtral", **tiny("mixtral"))
    least = smallest_budget(path, tmp_path / "nvme", **WORKLOAD)
    with (
        pytest.raises(BudgetError, match="the smallest that works is"),
        loaded(path, device_memory=least - 1, nvme_dir=tmp_path / "nvme", **WORKLOAD),
    ):
        raise AssertionError("was loaded")


@pytest.mark.parametrize("model_type", refused())
def test_refused_by_name(model_type: str, tmp_path: Path) -> None:
    """From config.json alone, before any weight is looked for."""
    changes, reason = REFUSED[model_type]
    AutoConfig.for_model(model_type, **changes).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=reason) as raised, loaded(tmp_path, **WORKLOAD):
        raise AssertionError("was loaded")
    text_type = AutoConfig.for_model(model_type).get_text_config(decoder=True).model_type
    assert str(raised.value).startswith(f"{tmp_path}: '{text_type}' cannot be offloaded")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("model_type", sorted(registered_otherwise()))
def test_what_is_no_causal_language_model(model_type: str, tmp_path: Path) -> None:
    """Refused by name, unless the language model in it is one."""
    config = AutoConfig.for_model(model_type)
    config.save_pretrained(tmp_path)
    text_type = config.get_text_config(decoder=True).model_type
    if text_type in working():
        assert read_architecture(tmp_path).config.model_type == text_type
        return
    expected = "cannot be offloaded" if text_type in registered() else "is not a causal language model"
    with pytest.raises(ModelError, match=f"'{text_type}' {expected}"):
        read_architecture(tmp_path)


def test_every_family_is_in_a_table(tmp_path: Path) -> None:
    """A newer transformers may have more: those need a row here, and until then must not give wrong tokens."""
    unknown = sorted(registered() - WORKS.keys() - REFUSED.keys())
    if Version(transformers.__version__).release[:2] <= KNOWN_UP_TO:
        assert not unknown
        return
    found = [f"{model_type}: {what_becomes_of(model_type, tmp_path / model_type)}" for model_type in unknown]
    pytest.skip(f"transformers {transformers.__version__} has new families: {'; '.join(found) or 'none'}")


def what_becomes_of(model_type: str, path: Path) -> str:
    try:
        save_model(path, model_type, **tiny(model_type))
        expected = generate(plain_model(path), make_inputs(PROMPT), NEW)
    except Exception as error:  # noqa: BLE001 - its configuration was a guess
        return f"not known how to make a small one ({error})"
    try:
        with loaded(path, **WORKLOAD) as model:
            assert generate(model, make_inputs(PROMPT), NEW) == expected
    except ModelError as error:
        return str(error)
    return "works"


class Sure(Calibration):
    """Every guess is worth fetching."""

    def share(self, kind: Hashable, prior: float = 0.0) -> float:
        return 1.0


@pytest.mark.parametrize("model_type", ["mixtral", "glm4_moe", "gpt_oss", "deepseek_v2"])
def test_guesses_change_no_token(model_type: str, tmp_path: Path) -> None:
    """Fetched ahead by the next gate, right or wrong, from the first token on and in little room."""
    path = save_model(tmp_path / "model", model_type, **tiny(model_type))
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


@pytest.mark.parametrize("model_type", ["mixtral", "gpt_oss", "deepseek_v3"])
def test_packed(model_type: str, tmp_path: Path) -> None:
    """Checkpoints that split experts and those that stack them become the same kind of store: a block an expert."""
    path = save_model(tmp_path / "model", model_type, **tiny(model_type))
    inputs = make_inputs(PROMPT, (0, 11))
    expected = generate(plain_model(path), inputs, NEW)
    pack(path, tmp_path / "packed")
    budget = smallest_budget(tmp_path / "packed", tmp_path / "nvme", **WORKLOAD)
    with loaded(tmp_path / "packed", device_memory=budget, nvme_dir=tmp_path / "nvme", **WORKLOAD) as model:
        assert generate(model, inputs, NEW) == expected
        assert model.plan.expert_slots == 2


def test_an_expert_is_missing(tmp_path: Path) -> None:
    path = save_model(tmp_path / "model", "mixtral", **tiny("mixtral"))
    tensors = load_file(path / "model.safetensors")
    gone = [name for name in tensors if ".experts.5." in name and ".2." in name]
    save_file({n: t for n, t in tensors.items() if n not in gone}, path / "model.safetensors", {"format": "pt"})
    with (
        pytest.raises(ModelError, match=r"model.layers.2.mlp.experts has 6 experts, the checkpoint 5"),
        loaded(path, **WORKLOAD),
    ):
        raise AssertionError("was loaded")


def test_experts_under_names_that_nobody_knows(tmp_path: Path) -> None:
    """All of a layer in one tensor would otherwise be taken for a part of the layer, and read as a whole."""
    path = save_model(tmp_path / "model", "qwen3_moe", **tiny("qwen3_moe"))
    plain_model(path).save_pretrained(tmp_path / "stacked", save_original_format=False)
    file = tmp_path / "stacked" / "model.safetensors"
    tensors = {name.replace(".experts.", ".mixture."): tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file, {"format": "pt"})
    with (
        pytest.raises(ModelError, match=r"layers.0.mlp.experts: no experts for it can be told apart"),
        loaded(tmp_path / "stacked", **WORKLOAD),
    ):
        raise AssertionError("was loaded")


def test_an_expert_that_changed_on_disk(tmp_path: Path) -> None:
    """Found when it is fetched; the others go on working, and no block is lost."""
    path = save_model(tmp_path / "model", "mixtral", **tiny("mixtral"))
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
