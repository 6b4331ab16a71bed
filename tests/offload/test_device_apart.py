"""Devices that have a memory of their own: everything they compute with was copied there, and not more than the budget.

The same tests run on a CPU whose memory is treated as if it were apart, and on a GPU where there is one.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from offload.device import MemoryKind
from tests.offload.zoo import generate, loaded, make_inputs, plain_model, save_model, smallest_budget
from tests.tiers.devices import CUDA, needs_cuda
from tiers.errors import TierError

PROMPT, NEW, PADDING = 400, 8, (0, 30)  # more than a block
WORKLOAD: dict[str, Any] = {"prompt_tokens": PROMPT, "new_tokens": NEW, "batch": len(PADDING)}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "gemma3_text": {"sliding_window": 32, "head_dim": 16},
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2},
    "gpt_oss": {"num_local_experts": 8, "num_experts_per_tok": 2, "head_dim": 16, "sliding_window": 32},
    "deepseek_v3": {
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 16,
        "q_lora_rank": 24,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 16,
        "v_head_dim": 16,
        "num_key_value_heads": 4,
    },
}
BUDGETS: dict[str, dict[str, Any]] = {
    "all on the device": {},
    "little on the device": {"host_memory": 0},
    "some in the host": {"host_memory": "300KiB"},
    "the rest in the host": {"host_memory": "8MiB"},
}


@pytest.fixture(params=["cpu", CUDA])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "cpu":
        for module in ("offload.arenas", "offload.budgets"):
            monkeypatch.setattr(f"{module}.memory_kind", lambda name: MemoryKind.OWN)
        monkeypatch.setattr("offload.kv.open_drives.has_own_memory", lambda name: True)
    return str(request.param)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {family: save_model(folder / family, family, **changes) for family, changes in FAMILIES.items()}


def moved(inputs: dict[str, Any], device: str) -> dict[str, Any]:
    return {name: tensor.to(device) for name, tensor in inputs.items()}


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_of_the_plain_model(
    models: dict[str, Path], tmp_path: Path, device: str, family: str, budget: str
) -> None:
    path, inputs = models[family], moved(make_inputs(PROMPT, PADDING), device)
    plain: Any = plain_model(path)
    expected = generate(plain.to(device), inputs, NEW)
    options = {**BUDGETS[budget], "device": device}
    if "host_memory" in options:
        least = smallest_budget(path, tmp_path / "nvme", **WORKLOAD)
        options |= {"device_memory": int(least * 1.1), "nvme_dir": tmp_path / "nvme"}
    with loaded(path, **WORKLOAD, **options) as model:
        assert model.device.type == device
        assert generate(model, inputs, NEW) == expected
        placement = model.plan.placement()
        if budget == "the rest in the host":
            assert placement["host"]["weight_groups"] or placement["host"]["experts"]
            assert model.runtime.engine.links["host->device"].nbytes > 0
        for tier, usage in model.runtime.tier_usage().items():
            assert usage["peak_bytes"] <= usage["capacity_bytes"], tier


def test_copies_in_the_host_spare_the_drive(models: dict[str, Path], tmp_path: Path, device: str) -> None:
    """Once loaded, nothing that the host holds is read from the drive again."""
    path = models["llama"]
    least = smallest_budget(path, tmp_path / "nvme", **WORKLOAD)
    options = {"device_memory": int(least * 1.1), "host_memory": "8MiB", "device": device}
    with loaded(path, **WORKLOAD, **options) as model:
        assert set(model.plan.in_host) == set(model.plan.streamed) - {"embedding.0"}
        before = model.runtime.engine.links["nvme->device"].nbytes
        generate(model, moved(make_inputs(PROMPT, PADDING), device), NEW)
        assert model.runtime.engine.links["nvme->device"].nbytes == before


def test_memory_that_is_not_page_locked_is_said(models: dict[str, Path], tmp_path: Path, device: str) -> None:
    """As where a limit of the system forbids it; here there is no device to lock it for."""
    least = smallest_budget(models["llama"], tmp_path / "nvme", **WORKLOAD)
    options = {"device_memory": int(least * 1.1), "host_memory": "8MiB", "device": device}
    with loaded(models["llama"], **WORKLOAD, **options) as model:
        why = "not pinned: cpu is no CUDA device of this machine"
        expected = [f"host: {why}", f"nvme->device: its buffers are {why}"]
        assert [note for note in model.runtime.notes if "pinned" in note] == (expected if device == "cpu" else [])


@pytest.mark.gpu
@needs_cuda
def test_too_little_memory_for_activations_is_one_line(models: dict[str, Path]) -> None:
    inputs = moved(make_inputs(PROMPT, PADDING), "cuda")
    with loaded(models["llama"], **WORKLOAD, device="cuda") as model:
        torch.cuda.set_per_process_memory_fraction(1e-6)
        torch.cuda.empty_cache()
        try:
            with pytest.raises(TierError, match="device: no memory for activations beside the budget"):
                generate(model, inputs, NEW)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.gpu
@needs_cuda
def test_arenas_take_what_the_plan_says(models: dict[str, Path], tmp_path: Path) -> None:
    """Of a GPU's memory, as torch counts it: arenas exactly, activations within the workspace."""
    path = models["mixtral"]
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    with loaded(path, **WORKLOAD, device="cuda") as model:
        held = torch.cuda.memory_allocated() - before
        planned = model.plan.device_bytes_used - model.plan.workspace_bytes
        assert held == pytest.approx(planned, rel=0.01, abs=2**20)
        torch.cuda.reset_peak_memory_stats()
        generate(model, moved(make_inputs(PROMPT, PADDING), "cuda"), NEW)
        assert torch.cuda.max_memory_allocated() - before <= model.plan.device_bytes_used + 2**20


@pytest.mark.parametrize("write_back", [0, 16])
@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
def test_tensors_go_straight_to_a_drive_that_computes(
    models: dict[str, Path], tmp_path: Path, device: str, family: str, write_back: int
) -> None:
    """And its answers straight to the device; those of a whole batch in one copy each way."""
    path, inputs = models[family], moved(make_inputs(40, PADDING), device)
    plain: Any = plain_model(path)
    expected = generate(plain.to(device), inputs, NEW)
    options = {"prompt_tokens": 40, "new_tokens": NEW, "batch": 2, "csd": 2, "nvme_dir": tmp_path, "device": device}
    with loaded(path, **options, write_back=write_back) as model:
        why = "csd: the queue is not pinned: cpu is no CUDA device of this machine"
        assert (why in model.runtime.notes) == (device == "cpu")
        assert generate(model, inputs, NEW) == expected
        assert generate(model, inputs, NEW, prefill_chunk_size=16) == expected
