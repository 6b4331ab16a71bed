"""The replay of a generation decides as the generation itself: the same transfers, in the same order."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from offload.config import RunConfig
from offload.plan import Workload
from offload.prospect import open_prospect, plan_for
from offload.render import plan_tables
from offload.simulation.drive_plan import DrivePlan, plan_with_drives
from offload.simulation.drive_speed import DriveSpeeds, measure_drives
from offload.simulation.foretell import foretell
from offload.simulation.generation import model_shape, placement_shape
from offload.traces.record import Course, record_trace
from simulators.expert_trace import ExpertTrace
from simulators.generation_costs import GenerationCosts
from simulators.generation_replay import GenerationResult
from simulators.generation_shape import DriveCosts
from simulators.modelled_link import VirtualClock
from simulators.profile import DEFAULT
from simulators.queued_mover import QueuedMover
from tests.offload.zoo import generate, loaded, make_inputs, save_model, smallest_budget
from tests.tiers.kit import open_fds
from tiers.chunks import Move
from tiers.errors import InvalidOptionError
from tiers.link import Priority
from tiers.tier import Tier

PROMPT, NEW = 200, 70
SIZES: dict[str, Any] = {"num_hidden_layers": 5, "eos_token_id": None}
MIXTURE: dict[str, Any] = {"num_local_experts": 6, "num_experts_per_tok": 2, "initializer_range": 0.4}

Moved = tuple[str, str, int, Priority, tuple[tuple[Any, int], ...]]


def describe(
    source: Tier, target: Tier, moves: Sequence[Move], priority: Priority, names: Callable[[Tier, int], Any]
) -> Moved:
    """A transfer, with the names of weights in place of the slots that they happen to have in files."""
    slots = tuple((names(source, move.source_slot), move.target_slot) for move in moves)
    return source.name, target.name, target.block_nbytes, priority, slots


class WatchedMover(QueuedMover):
    """Notes what it is asked to move."""

    def __init__(self, names: Callable[[Tier, int], Any]) -> None:
        super().__init__(VirtualClock(), GenerationCosts(DEFAULT, "float32").links(is_checked=True))
        self.names = names
        self.moved: list[Moved] = []

    def submit(self, source: Tier, target: Tier, moves: Sequence[Move], priority: Priority) -> Any:
        self.moved.append(describe(source, target, moves, priority, self.names))
        return super().submit(source, target, moves, priority)


def real_moves(path: Path, config: RunConfig, prompt: int, new: int) -> tuple[list[Moved], Any, int]:
    """Of a real run, with the manager's counters and the bytes from the drive."""
    budget = {"device_memory": config.device_memory, "host_memory": config.host_memory, "nvme_dir": config.nvme_dir}
    more = {"policy": config.policy, "predictor": config.predictor}
    moved: list[Moved] = []
    with loaded(path, **budget, **more, prompt_tokens=prompt, new_tokens=new, profile=DEFAULT) as model:
        engine, source = model.runtime.engine, model.runtime.source
        submit = engine.submit
        before = engine.links["nvme->device"].nbytes

        def watched(source_tier: Tier, target: Tier, moves: Sequence[Move], priority: Priority) -> Any:
            names = lambda tier, slot: source.groups[slot].key if tier is source else slot  # noqa: E731
            moved.append(describe(source_tier, target, moves, priority, names))
            return submit(source_tier, target, moves, priority)

        engine.submit = watched  # type: ignore[assignment,method-assign]  # a spy: the real engine moves real bytes
        generate(model, make_inputs(prompt), new)
        stats = model.runtime.experts.manager.stats if model.runtime.experts else model.runtime.kv.manager.stats
        return moved, stats, engine.links["nvme->device"].nbytes - before


def simulated_moves(
    path: Path, config: RunConfig, prompt: int, new: int, trace: ExpertTrace | None = None
) -> tuple[list[Moved], GenerationResult]:
    workload = Workload(1, prompt, new)
    prospect = open_prospect(path, config, context_tokens=workload.context_tokens)
    plan = plan_for(prospect, config, workload, DEFAULT)
    prospect.source.close()
    shape, placement = model_shape(prospect, plan), placement_shape(prospect, plan, config, workload)

    def names(tier: Tier, slot: int) -> Any:
        if tier.name != "nvme" or tier.block_nbytes == placement.kv_block_nbytes:
            return slot
        if tier.block_nbytes == placement.expert_slot_nbytes and tier.num_slots == len(shape.experts):
            return shape.experts[slot].key
        return placement.streamed[slot]

    mover = WatchedMover(names)
    result = foretell(path, config, workload, DEFAULT, trace, mover=mover)
    return mover.moved, result


@pytest.mark.parametrize("part", [0.0, 0.35, 0.7])
def test_weights_and_kv_move_as_in_a_real_run(tmp_path: Path, part: float) -> None:
    """From the smallest budget, with weights in few slots and a prompt in pieces, up to most of it on the device."""
    path = save_model(tmp_path / "model", "llama", **SIZES)
    sizes = {"prompt_tokens": PROMPT, "new_tokens": NEW}
    least = smallest_budget(path, tmp_path / "nvme", host_memory=0, **sizes)
    budget = least + round(part * 600_000)
    config = RunConfig(device_memory=budget, host_memory=0, nvme_dir=tmp_path / "nvme")
    real, stats, _ = real_moves(path, config, PROMPT, NEW)
    simulated, result = simulated_moves(path, config, PROMPT, NEW)
    assert real, "something moves"
    # What is read ahead at the end of loading belongs to no generation.
    assert simulated[len(simulated) - len(real) :] == real
    assert len(simulated) - len(real) <= 3
    assert (result.kv.misses, result.kv.evictions) == (stats.misses, stats.evictions)


@pytest.mark.parametrize("policy", ["lru", "expected_use", "arc"])
def test_experts_move_as_in_a_real_run(tmp_path: Path, policy: str) -> None:
    """Hits and misses are the same sequence, not only as many."""
    path = save_model(tmp_path / "model", "mixtral", **SIZES, **MIXTURE)
    prompt, new = 40, 12
    least = smallest_budget(path, tmp_path / "nvme", host_memory=0, prompt_tokens=prompt, new_tokens=new)
    config = RunConfig(
        device_memory=least + 2_000_000, host_memory=0, nvme_dir=tmp_path / "nvme", policy=policy, predictor="none"
    )
    ids = make_inputs(prompt)["input_ids"][0].tolist()
    trace = record_trace(RunConfig(), path, ids, Course(1, prompt, new - 1), gate_inputs=True)
    real, stats, _ = real_moves(path, config, prompt, new)
    simulated, result = simulated_moves(path, config, prompt, new, trace)
    assert stats.misses
    assert stats.hits
    assert simulated[len(simulated) - len(real) :] == real
    assert (result.experts.hits, result.experts.misses) == (stats.hits, stats.misses)


def test_with_computational_drives_a_run_waits_for_them(tmp_path: Path) -> None:
    """As many seconds more as there are layers and steps; a slow drive's writes show in front of the first step."""
    path = save_model(tmp_path / "model", "llama", **SIZES)
    workload = Workload(1, PROMPT, NEW)
    config = RunConfig(csd=2, nvme_dir=tmp_path / "nvme")
    free, fast, slow = (
        foretell(path, config, workload, DEFAULT, drives=costs)
        for costs in (DriveCosts(0, 0, 0), DriveCosts(1e-12, 0, 2e-3), DriveCosts(1.0, 0, 0))
    )
    steps = NEW - 1
    assert fast.decode_s == pytest.approx(free.decode_s + steps * SIZES["num_hidden_layers"] * 2e-3)
    assert fast.prefill_s == free.prefill_s
    assert slow.decode_s > SIZES["num_hidden_layers"] * PROMPT
    assert free.kv.misses == 0


def test_drives_of_ones_own_machine_are_tried(tmp_path: Path) -> None:
    path = save_model(tmp_path / "model", "llama", **SIZES)
    workload = Workload(2, PROMPT, NEW)
    config = RunConfig(csd=1, nvme_dir=tmp_path / "nvme", batch=2)
    prospect = open_prospect(path, config, context_tokens=workload.context_tokens)
    speeds = measure_drives(prospect, config, workload)
    prospect.source.close()
    for costs in (speeds.emulated, speeds.modelled):
        assert costs.attend_s > 0
        assert costs.write_s > 0
        assert costs.read_s > 0
    assert foretell(path, config, workload, DEFAULT).decode_tokens_per_s > 0
    assert not (tmp_path / "nvme").exists()


def test_a_plan_says_what_drives_are_worth(tmp_path: Path) -> None:
    path = save_model(tmp_path / "model", "llama", **SIZES)
    workload = Workload(1, PROMPT, NEW)
    found = plan_with_drives(RunConfig(csd=1, nvme_dir=tmp_path / "nvme"), path, workload)
    told = found.as_json()
    layers = SIZES["num_hidden_layers"]
    rest_s = 1 / found.plan.predicted_tokens_per_s
    assert 1 / told["predicted_tokens_per_s"] == pytest.approx(rest_s + layers * found.speeds.emulated.attend_s)
    assert told["drives"]["emulated"]["tokens_per_s"] == told["predicted_tokens_per_s"]
    assert 1 / told["drives"]["modelled"]["tokens_per_s"] == pytest.approx(
        rest_s + layers * found.speeds.modelled.attend_s
    )
    assert told["predicted_prefill_s"] >= found.plan.predicted_prefill_s


def test_layers_in_full_count_in_the_mean(tmp_path: Path) -> None:
    """Those of a real drive, which reads all pages there; writes are those of the engine."""
    path = save_model(tmp_path / "model", "llama", **SIZES)
    workload = Workload(1, 1000, 4)
    options: dict[str, Any] = {"csd": 1, "nvme_dir": tmp_path / "nvme", "attention": "in-storage-sparse"}
    attend_s = []
    for layers in ((), (0, 2, 3)):
        config = RunConfig(**options, compression=1 / 16, dense_layers=layers)
        prospect = open_prospect(path, config, context_tokens=workload.context_tokens)
        attend_s.append(measure_drives(prospect, config, workload).modelled.attend_s)
        prospect.source.close()
    none, some = attend_s
    assert none < some


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dense_layers": (99,), "attention": "in-storage-sparse"}, "dense_layers names layer 99; there are 5, from 0"),
        ({"write_back": 16, "x_cache": 0.5}, "--x-cache 0.5: no prediction knows what inputs in drives cost"),
        ({"csd": 3}, "2 KV heads cannot be split over 3 drives"),
    ],
)
def test_drives_that_cannot_be_tried_leave_nothing(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    path = save_model(tmp_path / "model", "llama", **SIZES)
    config = RunConfig(**{"csd": 1, "nvme_dir": tmp_path / "nvme", **options})
    prospect = open_prospect(path, config)
    prospect.source.close()
    fds = open_fds()
    with pytest.raises(InvalidOptionError, match=said) as told:
        measure_drives(prospect, config, Workload(1, PROMPT, NEW))
    assert open_fds() <= fds, told  # whose traceback holds what was not closed


def test_a_plan_says_that_it_leaves_writes_as_they_are(tmp_path: Path) -> None:
    costs = DriveCosts(1e-6, 0, 1e-3)
    path = save_model(tmp_path / "model", "llama", **SIZES)
    workload = Workload(1, PROMPT, NEW)
    prospect = open_prospect(path, context_tokens=workload.context_tokens)
    prospect.source.close()
    plan = plan_for(prospect, RunConfig(), workload, DEFAULT)
    for write_back in (0, 16):
        told = DrivePlan(plan, workload, 5, "instattention", DriveSpeeds(costs, costs), write_back).as_json()
        assert ("note" in told["drives"]) == bool(write_back)
        shown = plan_tables({**told, "placement": plan.placement()})
        assert any("--write-back is left out" in str(part) for part in shown) == bool(write_back)
