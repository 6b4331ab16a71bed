"""What the planner predicts is what the simulator's replay of the plan takes, on machines of several kinds."""

from dataclasses import replace

import pytest

from offload.plan import Budgets, ModelSizes, Plan, Workload
from offload.plan_choice import device_nbytes, everything
from offload.plan_costs import Costs
from offload.plan_experts import recorded_use
from offload.plan_kv import kv_need
from offload.planner import make_plan
from simulators.profile import HardwareProfile
from simulators.routing_generator import RoutingShape, generate_routing
from simulators.runtime_profile import RuntimeProfile
from tests.offload.planner_kit import make_profile
from tests.offload.replay_kit import make_sizes, replayed

MIB = 2**20
RUNTIME = RuntimeProfile(
    step_s=5e-4,
    layer_s=4e-4,
    group_s=1e-4,
    kv_block_s=2e-6,
    kv_part_s=1e-5,
    kv_visit_s=2e-4,
    kv_moved=dict.fromkeys(
        ("nvme->device", "device->nvme", "host->device", "device->host"), ((32768, 2e9), (131072, 2.5e9))
    ),
    expert_s=4e-5,
    missed_expert_s=3e-5,
    moe_layer_s=2e-4,
    busy_share=0.8,
    transfer_s=6e-5,
)
FAST = replace(make_profile(2e9, 1.5e10, 2e10), runtime=RUNTIME)
SLOW_DRIVE = replace(make_profile(2e8, 1.5e10, 2e10), runtime=RUNTIME)
BARE = make_profile(2e9, 1.5e10, 2e10)
"""A data sheet: nothing of the runtime is known."""

MACHINES = {"fast": FAST, "slow drive": SLOW_DRIVE, "data sheet": BARE}


def _budgets(sizes: ModelSizes, workload: Workload, kv_share: float, host: int) -> Budgets:
    """All weights, and this share of the KV cache."""
    need = kv_need(sizes, workload)
    costs = Costs(sizes, workload, FAST)
    full = device_nbytes(costs, need, everything(costs, need))
    return Budgets(round(full - (1 - kv_share) * need.total * sizes.kv_block_nbytes), host)


def _agree(sizes: ModelSizes, plan: Plan, workload: Workload, profile: HardwareProfile, most: float) -> None:
    found = replayed(sizes, plan, workload, profile)
    predicted = plan.predicted_tokens_per_s / workload.batch
    assert predicted == pytest.approx(found.decode_tokens_per_s, rel=most)
    assert plan.predicted_prefill_s == pytest.approx(found.prefill_s, rel=0.2)


@pytest.mark.parametrize("host", [0, 512 * MIB])
@pytest.mark.parametrize("kv_share", [0.9, 0.25])
@pytest.mark.parametrize(("layers", "prompt", "batch"), [(8, 1000, 1), (8, 600, 4), (30, 500, 1)])
@pytest.mark.parametrize("machine", MACHINES)
def test_kv_blocks_that_move(machine: str, layers: int, prompt: int, batch: int, kv_share: float, host: int) -> None:
    """Where nothing but links takes time, whether a layer's blocks come a moment before or after their use is all."""
    sizes, workload = make_sizes(layers, matrix=2**17, kv_token=2048), Workload(batch, prompt, 9)
    budgets = _budgets(sizes, workload, kv_share, host)
    plan = make_plan(sizes, budgets, workload, MACHINES[machine])
    _agree(sizes, plan, workload, MACHINES[machine], 0.35 if machine == "data sheet" else 0.15)


@pytest.mark.parametrize("blocks", [1, 4, 8, 16, 64])
@pytest.mark.parametrize(("prompt", "batch"), [(1000, 1), (600, 4)])
def test_a_host_of_a_few_blocks(prompt: int, batch: int, blocks: int) -> None:
    """What it gives in a step is what it has room for; all else comes from a drive that is much slower."""
    sizes, workload = make_sizes(8, matrix=2**17, kv_token=2048), Workload(batch, prompt, 9)
    budgets = _budgets(sizes, workload, 0.5, blocks * sizes.kv_block_nbytes)
    plan = make_plan(sizes, budgets, workload, SLOW_DRIVE)
    assert plan.kv_host_blocks == blocks
    _agree(sizes, plan, workload, SLOW_DRIVE, 0.2)


@pytest.mark.parametrize("machine", ["fast", "slow drive"])
@pytest.mark.parametrize(
    ("prompt", "batch", "kv_share", "blocks"),
    [(600, 1, 0.25, 60), (600, 1, 0.25, 64), (600, 1, 0.25, 66), (1000, 1, 0.5, 64), (600, 4, 0.5, 168)],
)
def test_a_host_of_just_enough_blocks(machine: str, prompt: int, batch: int, kv_share: float, blocks: int) -> None:
    """No drive for KV blocks, and room in the host for hardly more than what misses: more than that comes even so."""
    sizes, workload = make_sizes(8, matrix=2**17, kv_token=2048), Workload(batch, prompt, 9)
    budgets = replace(_budgets(sizes, workload, kv_share, blocks * sizes.kv_block_nbytes), nvme_bytes=0)
    plan = make_plan(sizes, budgets, workload, MACHINES[machine])
    assert plan.kv_nvme_blocks == 0
    _agree(sizes, plan, workload, MACHINES[machine], 0.1)


def test_what_leaves_the_device_is_what_costs_least() -> None:
    """A KV block takes the model as long as a read of the drive, weights pass by: so the cache stays and weights go."""
    sizes, workload = make_sizes(30), Workload(1, 1000, 17)
    plan = make_plan(sizes, _budgets(sizes, workload, 0.5, 512 * MIB), workload, FAST)
    assert plan.streamed
    assert plan.kv_host_blocks == plan.kv_nvme_blocks == 0
    without = replace(FAST, runtime=replace(RUNTIME, kv_visit_s=0.0, kv_block_s=0.0, kv_part_s=0.0, kv_moved={}))
    assert make_plan(sizes, _budgets(sizes, workload, 0.5, 512 * MIB), workload, without).kv_host_blocks


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("share", [1.0, 0.9, 0.5])
def test_weights_that_stream(machine: str, share: float) -> None:
    sizes, workload = make_sizes(12), Workload(1, 200, 9)
    whole = make_plan(sizes, Budgets(), workload, MACHINES[machine])
    plan = make_plan(sizes, Budgets(round(share * whole.device_bytes_used)), workload, MACHINES[machine])
    _agree(sizes, plan, workload, MACHINES[machine], 0.15)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("share", [1.0, 0.75, 0.5, 0.25])
@pytest.mark.parametrize("policy", ["lru", "expected_use"])
def test_experts_that_a_trace_foretells(machine: str, share: float, policy: str) -> None:
    sizes, workload = make_sizes(6, experts=16, top_k=4, expert=3 * 2**20), Workload(1, 32, 33)
    shape = RoutingShape(skew=0.1, locality=0.5, topic=0.1)
    trace = generate_routing([(32, 32)], 6, 16, 4, shape=shape)
    whole = make_plan(sizes, Budgets(), workload, MACHINES[machine])
    budget = whole.device_bytes_used - round((1 - share) * sizes.num_experts) * sizes.expert_slot_nbytes
    foresee = recorded_use(sizes, workload, trace, policy)
    plan = make_plan(sizes, Budgets(budget), workload, MACHINES[machine], foresee=foresee)
    assert plan.expert_slots == round(share * sizes.num_experts)
    found = replayed(sizes, plan, workload, MACHINES[machine], trace, policy)
    if share < 1:
        assert plan.expert_hit_ratio == pytest.approx(found.experts.hits / found.experts.accesses, abs=0.2)
    assert plan.predicted_tokens_per_s == pytest.approx(found.decode_tokens_per_s, rel=0.15)
