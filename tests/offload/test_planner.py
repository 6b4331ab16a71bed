"""The planner keeps within its budgets, knows exactly how little is enough, and never does worse with more."""

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.plan import Budgets, ModelSizes, Plan, Workload
from offload.plan_choice import Choice, by_size, device_nbytes, fill, total_s
from offload.plan_costs import Costs, kv_room
from offload.plan_kv import kv_need
from offload.planner import make_plan, smallest_device_bytes
from prefetch.block_store import blocks_ahead
from simulators.profile import HardwareProfile
from tests.offload.planner_kit import MIB, PAGE, SMALL, full_nbytes, make_profile
from tiers.errors import BudgetError
from tiers.tier import align_up

CLOSE = 1.001
"""The planner's program cuts KV blocks; of the few of a small model, one more or less on a link is a per cent."""


@st.composite
def _models(draw: st.DrawFn) -> ModelSizes:
    group = st.integers(1, 40).map(lambda pages: pages * 50_000)
    kinds = draw(st.lists(group, min_size=1, max_size=3))
    num_layers = draw(st.integers(1, 6))
    return ModelSizes(
        layer_nbytes=tuple(draw(st.sampled_from(kinds)) for _ in range(num_layers)),
        head_nbytes=tuple(draw(st.lists(group, min_size=1, max_size=3))),
        embedding_nbytes=draw(group),
        rest_nbytes=draw(st.integers(0, 20_000)),
        tied=draw(st.booleans()),
        kv_nbytes_per_token_layer=draw(st.sampled_from([64, 256, 1536, 4096])),
        num_layers=num_layers,
        kv_block_tokens=draw(st.sampled_from([16, 64])),
        flops_per_token=draw(st.floats(1e5, 1e10)),
        workspace_nbytes_per_token=draw(st.integers(100, 20_000)),
        workspace_nbytes_fixed=draw(st.integers(0, 100_000)),
        attention_flops_per_pair=draw(st.floats(0, 1e5)),
        embedding_row_nbytes=512,
    )


MODELS = _models()
WORKLOADS = st.builds(Workload, st.integers(1, 3), st.integers(1, 700), st.integers(0, 300))
PROFILES = st.builds(make_profile, st.floats(1e7, 1e10), st.floats(1e7, 1e11), st.floats(1e9, 1e12))
LIMITED = st.none() | st.integers(0, 50 * MIB)


def _check_plan(plan: Plan, sizes: ModelSizes, budgets: Budgets, workload: Workload) -> None:
    """What has to hold of every plan."""
    need = kv_need(sizes, workload)
    assert budgets.device_bytes is None or plan.device_bytes_used <= budgets.device_bytes
    assert plan.kv_host_blocks * plan.kv_block_nbytes <= (budgets.host_bytes or 0)
    assert budgets.nvme_bytes is None or plan.kv_nvme_blocks * plan.kv_block_nbytes <= budgets.nvme_bytes
    assert min(plan.kv_host_blocks, plan.kv_nvme_blocks, plan.missed_kv_bytes_per_token) >= 0
    away = plan.kv_host_blocks + plan.kv_nvme_blocks
    window = need.window if away else 0
    ahead = blocks_ahead(plan.kv_device_blocks, plan.kv_block_nbytes) if plan.kv_host_blocks else 0
    assert need.total + window <= plan.kv_device_blocks + away <= need.total + window + ahead
    assert plan.kv_device_blocks >= need.tails + window
    streamed = set(plan.streamed) - set(sizes.embedding_names)
    assert bool(plan.staging_slots) == bool(streamed)
    assert not set(plan.streamed) & set(plan.resident)
    assert {name for name, _ in sizes.streamable} <= {*plan.streamed, *plan.resident}
    weights = sum(nbytes for name, nbytes in sizes.streamable if name in plan.resident)
    assert plan.resident_nbytes >= weights
    parts = plan.resident_nbytes + plan.staging_slots * plan.slot_nbytes + plan.workspace_bytes
    assert plan.device_bytes_used == parts + plan.kv_device_blocks * plan.kv_block_nbytes
    assert plan.prefill_chunk_tokens % sizes.kv_block_tokens == 0
    assert plan.prefill_chunk_tokens > 0
    assert math.isfinite(plan.predicted_total_s)


@settings(max_examples=60, deadline=None)
@given(MODELS, WORKLOADS, PROFILES, st.floats(0, 1), st.integers(0, 40 * MIB))
def test_a_plan_keeps_within_its_budgets(
    sizes: ModelSizes, workload: Workload, profile: HardwareProfile, share: float, host: int
) -> None:
    least = smallest_device_bytes(sizes, Budgets(host_bytes=host), workload)
    budgets = Budgets(least + int(share * (full_nbytes(sizes, workload) - least)), host)
    _check_plan(make_plan(sizes, budgets, workload, profile), sizes, budgets, workload)


@settings(max_examples=60, deadline=None)
@given(MODELS, WORKLOADS, PROFILES, LIMITED, LIMITED)
def test_the_smallest_budget_is_exact(
    sizes: ModelSizes, workload: Workload, profile: HardwareProfile, host: int | None, nvme: int | None
) -> None:
    """It works to the byte, one byte less does not, and the error says how much would."""
    least = smallest_device_bytes(sizes, Budgets(None, host, nvme), workload)
    budgets = Budgets(least, host, nvme)
    _check_plan(make_plan(sizes, budgets, workload, profile), sizes, budgets, workload)
    for less in (1, PAGE):
        if least - less >= full_nbytes(sizes, workload):
            continue
        with pytest.raises(BudgetError) as caught:
            make_plan(sizes, replace(budgets, device_bytes=least - less), workload, profile)
        mended = _mended(replace(budgets, device_bytes=least - less), caught.value)
        _check_plan(make_plan(sizes, mended, workload, profile), sizes, mended, workload)
        with pytest.raises(BudgetError):
            make_plan(sizes, _mended(replace(budgets, device_bytes=least - less), caught.value, 1), workload, profile)


def _mended(budgets: Budgets, error: BudgetError, less: int = 0) -> Budgets:
    """The budgets with the one that the error blames raised to what it wants."""
    if str(error).startswith("--nvme-memory"):
        assert error.available_bytes == budgets.nvme_bytes
        return replace(budgets, nvme_bytes=error.wanted_bytes - less)
    assert error.available_bytes == budgets.device_bytes
    return replace(budgets, device_bytes=error.wanted_bytes - less)


@settings(max_examples=40, deadline=None)
@given(MODELS, WORKLOADS, PROFILES, st.lists(st.floats(0, 1.1), min_size=2, max_size=3), st.sampled_from([0, 8 * MIB]))
def test_more_memory_never_predicts_a_slower_run(
    sizes: ModelSizes, workload: Workload, profile: HardwareProfile, shares: list[float], host: int
) -> None:
    least = smallest_device_bytes(sizes, Budgets(), workload)
    extra = full_nbytes(sizes, workload) - least
    plans = [make_plan(sizes, Budgets(least + int(share * extra), host), workload, profile) for share in sorted(shares)]
    for smaller, larger in itertools.pairwise(plans):
        assert larger.predicted_total_s <= smaller.predicted_total_s * CLOSE


@settings(max_examples=40, deadline=None)
@given(MODELS, WORKLOADS, PROFILES, st.floats(0, 1), st.lists(st.integers(0, 20 * MIB), min_size=2, max_size=2))
def test_more_host_memory_never_predicts_a_slower_run(
    sizes: ModelSizes, workload: Workload, profile: HardwareProfile, share: float, hosts: list[int]
) -> None:
    """Whatever the host's link: blocks need not use it."""
    least = smallest_device_bytes(sizes, Budgets(), workload)
    device = least + int(share * (full_nbytes(sizes, workload) - least))
    smaller, larger = (make_plan(sizes, Budgets(device, host), workload, profile) for host in sorted(hosts))
    assert larger.predicted_total_s <= smaller.predicted_total_s * CLOSE


@settings(max_examples=40, deadline=None)
@given(MODELS, WORKLOADS, PROFILES, st.integers(0, MIB))
def test_everything_stays_where_it_fits(
    sizes: ModelSizes, workload: Workload, profile: HardwareProfile, spare: int
) -> None:
    full = full_nbytes(sizes, workload)
    for budgets in (Budgets(full + spare), Budgets(full), Budgets(None, 0, 0)):
        plan = make_plan(sizes, budgets, workload, profile)
        assert not plan.streamed
        assert plan.staging_slots == plan.kv_host_blocks == plan.kv_nvme_blocks == 0
        assert plan.kv_device_blocks == kv_need(sizes, workload).total
        assert plan.prefill_chunk_tokens >= workload.prompt_tokens
        assert plan.missed_weight_bytes_per_token == plan.missed_kv_bytes_per_token == 0
        assert plan.bottleneck == "compute"


def _brute_force_s(sizes: ModelSizes, budgets: Budgets, workload: Workload, profile: HardwareProfile) -> float:
    """The best total over every whole-numbered choice, found by trying them all."""
    costs, need = Costs(sizes, workload, profile), kv_need(sizes, workload)
    room = kv_room(need, budgets, sizes.kv_block_nbytes)
    layers, heads = by_size(sizes.layer_nbytes), by_size(sizes.head_nbytes)
    blocks = sizes.kv_block_tokens
    chunks = {align_up(math.ceil(workload.prompt_tokens / parts), blocks) for parts in (1, 2, 3, 4, 6, 8, 16)}
    best = math.inf
    for slots, chunk, keeps, resident in itertools.product(
        range(4), chunks, (False, True), range(room.least_resident, need.total + 1)
    ):
        for counts in itertools.product(*(range(n + 1) for n in (*layers.values(), *heads.values()))):
            kept = dict(zip([*layers, *heads], counts[: len(layers)], strict=False))
            some_layers = type(layers)(kept)
            some_heads = type(heads)(dict(zip(heads, counts[len(layers) :], strict=True)))
            if (slots == 0) != (some_layers == layers and some_heads == heads) or (slots == 1 and any(counts)):
                continue
            missed = max(0, need.mean - resident)
            for host_misses in range(min(room.host, missed) + 1):
                choice = Choice(slots, chunk, some_layers, some_heads, keeps, resident, 0, 0, missed - host_misses)
                choice = fill(choice, need, room, 0)
                if device_nbytes(costs, need, choice) <= (budgets.device_bytes or 0):
                    best = min(best, total_s(costs, choice))
    return best


@pytest.mark.parametrize("host_blocks", [0, 3])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("rates", [(1e8, 1e9), (1e9, 2e8), (1e10, 1e10)])
def test_no_choice_beats_the_program(rates: tuple[float, float], share: float, host_blocks: int) -> None:
    sizes = replace(SMALL, layer_nbytes=(MIB, MIB, 2 * MIB), num_layers=3, flops_per_token=1e8)
    workload, profile = Workload(1, 40, 20), make_profile(*rates)
    host = host_blocks * sizes.kv_block_nbytes
    least = smallest_device_bytes(sizes, Budgets(host_bytes=host), workload)
    budgets = Budgets(least + int(share * (full_nbytes(sizes, workload) - least)), host)
    plan = make_plan(sizes, budgets, workload, profile)
    assert plan.predicted_total_s <= _brute_force_s(sizes, budgets, workload, profile) * CLOSE
