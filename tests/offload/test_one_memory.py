"""GPUs that compute in the host's memory: one budget, one arena that the drive fills, and nothing is copied.

The same tests run on a CPU that is treated as such a GPU, and on a GPU, which then reads that memory over its bus.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import offload
from offload.config import RunConfig
from offload.device import MemoryKind
from offload.pack import pack
from offload.plan import Plan, Workload
from offload.prospect import open_prospect, plan_for
from offload.session import plan_model
from offload.simulation.generation import model_shape, placement_shape, work_shape
from simulators.generation_replay import replay_generation
from simulators.profile import HardwareProfile
from simulators.published import load_profile
from tests.offload.test_device_apart import FAMILIES, NEW, PADDING, PROMPT, WORKLOAD, moved
from tests.offload.zoo import generate, loaded, make_inputs, plain_model, save_model, smallest_budget
from tests.tiers.devices import CUDA
from tiers.errors import BudgetError, InvalidOptionError, ModelError
from tiers.shared_tier import SharedTier

JETSON = load_profile("jetson_orin_nano")


@pytest.fixture(params=["cpu", CUDA])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    for module in ("offload.arenas", "offload.budgets", "offload.device"):
        monkeypatch.setattr(f"{module}.memory_kind", lambda name: MemoryKind.SHARED)
    return str(request.param)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: save_model(folder / name, name, **FAMILIES[name]) for name in ("llama", "gemma3_text", "mixtral")}


@pytest.mark.parametrize("budget", ["all", "little"])
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "mixtral"])
def test_tokens_come_out_of_one_arena(
    models: dict[str, Path], tmp_path: Path, device: str, family: str, budget: str
) -> None:
    """As of the plain model; the drive is the only link, and no tier has more than its budget."""
    path, inputs = models[family], moved(make_inputs(PROMPT, PADDING), device)
    plain: Any = plain_model(path)
    expected = generate(plain.to(device), inputs, NEW)
    options: dict[str, Any] = {"device": device}
    if budget == "little":
        least = smallest_budget(path, tmp_path / "nvme", **WORKLOAD)
        options |= {"device_memory": int(least * 1.1), "nvme_dir": tmp_path / "nvme"}
    with loaded(path, **WORKLOAD, **options) as model:
        assert generate(model, inputs, NEW) == expected
        runtime = model.runtime
        assert isinstance(runtime.resident, SharedTier)
        assert isinstance(runtime.kv_levels[0].tier, SharedTier)
        assert not any("host" in name for name in runtime.engine.links)
        assert runtime.tier_usage().keys() <= {"device", "nvme"}
        if budget == "little":
            assert runtime.engine.links["nvme->device"].nbytes > 0
            assert runtime.tier_usage()["device"]["capacity_bytes"] <= options["device_memory"]
        for tier, usage in runtime.tier_usage().items():
            assert usage["peak_bytes"] <= usage["capacity_bytes"], tier


def test_a_second_budget_of_one_memory_is_refused(models: dict[str, Path], device: str) -> None:
    expected = r"--host-memory 2MiB: device and host are one memory on \w+; give all of it to the device "
    with pytest.raises(InvalidOptionError, match=expected + r"\(--device-memory 6MiB\) and leave it out"):
        offload.load(models["llama"], device=device, device_memory="4MiB", host_memory="2MiB", **WORKLOAD)
    with loaded(models["llama"], device=device, host_memory=0, **WORKLOAD) as model:
        assert model.plan.host_weight_nbytes == model.plan.kv_host_blocks == 0


def test_codes_for_another_processor_come_out_of_one_arena(
    models: dict[str, Path], tmp_path: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which a GPU reads though its processor cannot; so no processor in the place of one loads them."""
    pack(models["mixtral"], tmp_path / "packed", experts="int4")
    monkeypatch.setattr("offload.experts.packed.products.tiles_here", lambda: "tiles16")
    refused = pytest.raises(ModelError, match="packed for another processor")
    wanted: AbstractContextManager[object] = refused if device == "cpu" else nullcontext()
    with wanted, loaded(tmp_path / "packed", **WORKLOAD, device=device) as model:
        assert generate(model, moved(make_inputs(PROMPT, PADDING), device), NEW)


# Plans for boards that are not there.


def plan_on(profile: HardwareProfile, path: Path, nbytes: int, **budget: Any) -> Plan:
    config = RunConfig(device_memory=nbytes, nvme_dir=Path("drive"), **budget)
    return plan_model(config, path, Workload(2, PROMPT, NEW), elsewhere=profile)


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_a_plan_for_a_board_has_no_host_tier(models: dict[str, Path], family: str) -> None:
    """However little there is; beside a GPU with a memory of its own the same budget is used for copies."""
    path = models[family]
    with pytest.raises(BudgetError) as error:
        plan_on(JETSON, path, 0)
    for nbytes in (error.value.wanted_bytes, error.value.wanted_bytes * 2):
        plan = plan_on(JETSON, path, nbytes)
        assert plan.device_bytes_used <= nbytes
        assert (plan.kv_host_blocks, plan.host_experts, plan.in_host) == (0, 0, ())
        assert plan.bottleneck != "host->device"
    beside = plan_on(load_profile("a6000"), path, error.value.wanted_bytes, host_memory=2**30)
    assert beside.in_host or beside.host_experts


def test_a_plan_for_another_machine_wants_its_budget(models: dict[str, Path]) -> None:
    with pytest.raises(InvalidOptionError, match="--device-memory: not given, and 'a6000' is not this machine"):
        plan_model(RunConfig(), models["llama"], Workload(1, 8, 8), elsewhere=load_profile("a6000"))
    with pytest.raises(InvalidOptionError, match=r"--host-memory 1MiB: .* one memory on jetson_orin_nano"):
        plan_on(JETSON, models["llama"], 2**22, host_memory=2**20)


def test_a_plan_for_a_board_needs_no_board(models: dict[str, Path], tmp_path: Path) -> None:
    """Nor its kernels, which a store of experts in fewer bits will want there, nor a directory of its drive."""
    pack(models["mixtral"], tmp_path / "packed", experts="int4")
    assert plan_on(JETSON, tmp_path / "packed", 2**30).expert_slots == 32
    with pytest.raises(BudgetError) as error:
        plan_on(JETSON, models["llama"], 0)
    config = RunConfig(device_memory=error.value.wanted_bytes, nvme_memory=2**30)
    plan = plan_model(config, models["llama"], Workload(2, PROMPT, NEW), elsewhere=JETSON)
    assert plan.kv_nvme_blocks


def test_a_generation_on_a_board_uses_no_other_link(models: dict[str, Path]) -> None:
    """The plan, replayed with the managers of the runtime: all that moves comes from the drive or goes there."""
    with pytest.raises(BudgetError) as error:
        plan_on(JETSON, models["llama"], 0)
    work = Workload(1, PROMPT, NEW)
    config = RunConfig(device="cuda", device_memory=error.value.wanted_bytes, nvme_dir=Path("drive"))
    prospect = open_prospect(models["llama"], config)
    try:
        plan = plan_for(prospect, config, work, JETSON, elsewhere=True)
        shape, placement = model_shape(prospect, plan), placement_shape(prospect, plan, config, work)
    finally:
        prospect.source.close()
    slower = replace(JETSON, memory_bytes_per_s=JETSON.memory_bytes_per_s / 100)
    results = [replay_generation(shape, placement, work_shape(work), one) for one in (JETSON, slower)]
    for result in results:
        moved_over = {name for name, nbytes in result.link_nbytes.items() if nbytes}
        assert "nvme->device" in moved_over
        assert moved_over <= {"nvme->device", "device->nvme"}
    assert results[1].decode_s > results[0].decode_s
