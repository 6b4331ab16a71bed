"""The planner keeps within its budgets, knows exactly how little is enough, and never does worse with more."""

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offload.plan import Budgets, ModelSizes, Plan, Workload
from offload.plan_choice import Choice, by_size, device_nbytes, everything, fill, total_s
from offload.plan_costs import Costs, kv_need, kv_room
from offload.planner import make_plan, smallest_device_bytes
from prefetch.block_store import blocks_ahead
from simulators.profile import DEFAULT, HardwareProfile, LinkProfile
from tiers.errors import BudgetError, InvalidOptionError
from tiers.tier import align_up

PAGE = 4096
MIB = 2**20
CLOSE = 1 + 1e-3
"""The planner stops its search where two plans differ by less than this."""

SMALL = ModelSizes(
    layer_nbytes=(MIB,) * 8,
    head_nbytes=(MIB, MIB // 2),
    embedding_nbytes=3 * MIB,
    rest_nbytes=PAGE,
    tied=False,
    kv_nbytes_per_token_layer=256,
    num_layers=8,
    kv_block_tokens=16,
    flops_per_token=5e6,
    workspace_nbytes_per_token=4000,
    workspace_nbytes_fixed=PAGE,
    embedding_row_nbytes=512,
)
SHORT = Workload(batch=1, prompt_tokens=40, new_tokens=20)


def _link(rate: float) -> LinkProfile:
    return LinkProfile(rate, rate / 2, 1e-4)


def _profile(drive: float, host: float, memory: float = 1e10) -> HardwareProfile:
    links = {name: _link(drive if "nvme" in name else host) for name in DEFAULT.links}
    return replace(DEFAULT, memory_bytes_per_s=memory, links=links)


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
PROFILES = st.builds(_profile, st.floats(1e7, 1e10), st.floats(1e7, 1e11), st.floats(1e9, 1e12))
LIMITED = st.none() | st.integers(0, 50 * MIB)


def _full_nbytes(sizes: ModelSizes, workload: Workload) -> int:
    costs = Costs(sizes, workload, DEFAULT)
    need = kv_need(sizes, workload)
    return device_nbytes(costs, need, everything(costs, need))


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
    budgets = Budgets(least + int(share * (_full_nbytes(sizes, workload) - least)), host)
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
        if least - less >= _full_nbytes(sizes, workload):
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
    extra = _full_nbytes(sizes, workload) - least
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
    device = least + int(share * (_full_nbytes(sizes, workload) - least))
    smaller, larger = (make_plan(sizes, Budgets(device, host), workload, profile) for host in sorted(hosts))
    assert larger.predicted_total_s <= smaller.predicted_total_s * CLOSE


@settings(max_examples=40, deadline=None)
@given(MODELS, WORKLOADS, PROFILES, st.integers(0, MIB))
def test_everything_stays_where_it_fits(
    sizes: ModelSizes, workload: Workload, profile: HardwareProfile, spare: int
) -> None:
    full = _full_nbytes(sizes, workload)
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
    workload, profile = Workload(1, 40, 20), _profile(*rates)
    host = host_blocks * sizes.kv_block_nbytes
    least = smallest_device_bytes(sizes, Budgets(host_bytes=host), workload)
    budgets = Budgets(least + int(share * (_full_nbytes(sizes, workload) - least)), host)
    plan = make_plan(sizes, budgets, workload, profile)
    assert plan.predicted_total_s <= _brute_force_s(sizes, budgets, workload, profile) * CLOSE


def test_three_slots_are_preferred_for_a_long_stream() -> None:
    sizes = replace(SMALL, layer_nbytes=(MIB,) * 40, num_layers=40)
    least = smallest_device_bytes(sizes, Budgets(), SHORT)
    slots = [
        make_plan(sizes, Budgets(least + extra * MIB), SHORT, _profile(1e9, 1e10)).staging_slots for extra in (0, 1, 4)
    ]
    assert slots == [1, 2, 3]


def test_resident_layers_are_spread_over_the_model() -> None:
    """The drive then reads on while the resident layer in between is computed."""
    least = smallest_device_bytes(SMALL, Budgets(), SHORT)
    plan = make_plan(SMALL, Budgets(least + 5 * MIB), SHORT, _profile(1e9, 1e10))
    places = [i for i, (name, _) in enumerate(SMALL.streamable) if name in plan.resident and name.startswith("layers")]
    assert len(places) > 1
    assert all(later - earlier > 1 for earlier, later in itertools.pairwise(places))


def test_the_embedding_gives_way_first() -> None:
    """Its rows are read one by one, which costs far less than reading layers."""
    full = _full_nbytes(SMALL, SHORT)
    plan = make_plan(SMALL, Budgets(full - MIB), SHORT, _profile(1e9, 1e10))
    assert plan.streamed == SMALL.embedding_names
    assert plan.staging_slots == 0
    assert plan.missed_weight_bytes_per_token == 0


def test_the_host_takes_cache_blocks_before_the_drive() -> None:
    sizes = replace(SMALL, kv_nbytes_per_token_layer=16384)
    least = smallest_device_bytes(sizes, Budgets(), SHORT)
    for blocks in (0, 5, 1000):
        plan = make_plan(sizes, Budgets(least, blocks * sizes.kv_block_nbytes), SHORT, _profile(1e9, 1e10))
        away = plan.kv_host_blocks + plan.kv_nvme_blocks
        assert plan.kv_host_blocks == min(blocks, away)


def test_a_slow_drive_makes_chunks_large() -> None:
    """Each chunk reads every missing weight again."""
    workload = Workload(1, 512, 1)
    least = smallest_device_bytes(SMALL, Budgets(), workload)
    budgets = Budgets(least + 4 * MIB)
    slow = make_plan(SMALL, budgets, workload, _profile(1e8, 1e10))
    assert slow.prefill_chunk_tokens == 512
    assert slow.bottleneck == "nvme->device"


def test_messages_name_the_option_and_the_cure() -> None:
    least = smallest_device_bytes(SMALL, Budgets(), SHORT)
    with pytest.raises(
        BudgetError, match=rf"^--device-memory .* smallest that works is {-(-least // MIB)}MiB$"
    ) as caught:
        make_plan(SMALL, Budgets(MIB), SHORT, DEFAULT)
    assert caught.value.wanted_bytes == least
    with pytest.raises(
        BudgetError, match=r"^--nvme-memory 0\.0MiB: .* works beside this device memory is 1MiB$"
    ) as caught:
        make_plan(SMALL, Budgets(least, None, 0), SHORT, DEFAULT)
    assert caught.value.wanted_bytes == make_plan(SMALL, Budgets(least), SHORT, DEFAULT).kv_nvme_blocks * 4096


def test_the_placement_adds_up() -> None:
    least = smallest_device_bytes(SMALL, Budgets(), SHORT)
    plan = make_plan(SMALL, Budgets(least, 3 * PAGE), SHORT, DEFAULT)
    placement = plan.placement()
    device = placement["device"]
    parts = ("weight_bytes", "staging_bytes", "kv_bytes", "workspace_bytes")
    assert device["bytes"] == plan.device_bytes_used == sum(int(str(device[part])) for part in parts)
    assert placement["host"]["kv_blocks"] == 3
    assert placement["nvme"]["weight_groups"] == list(plan.streamed)


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"prompt_tokens": 0}, {"new_tokens": -1}])
def test_a_workload_is_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(InvalidOptionError, match="must be at least"):
        replace(SHORT, **wrong)


def test_a_negative_budget_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="--host-memory -1"):
        Budgets(None, -1)


def test_experts_get_what_is_left() -> None:
    """Never fewer than a token visits in a layer, never over the budget, and more of them the more there is."""
    sizes = replace(
        SMALL, num_experts=64, experts_per_token=8, experts_per_layer_and_token=2, expert_nbytes=SMALL.slot_nbytes
    )
    workload = Workload(1, 100, 20)
    least = smallest_device_bytes(sizes, Budgets(), workload)
    assert least == smallest_device_bytes(SMALL, Budgets(), workload) + 2 * SMALL.slot_nbytes
    every = make_plan(sizes, Budgets(), workload, DEFAULT)
    assert every.expert_slots == 64
    assert every.missed_expert_bytes_per_token == 0
    slots, missed = [], []
    for step in range(9):
        budget = least + step * (every.device_bytes_used - least) // 8
        plan = make_plan(sizes, Budgets(device_bytes=budget), workload, DEFAULT)
        assert plan.device_bytes_used <= budget
        slots.append(plan.expert_slots)
        missed.append(plan.missed_expert_bytes_per_token)
        assert plan.missed_expert_bytes_per_token == round(8 * (1 - plan.expert_slots / 64) * sizes.expert_nbytes)
    assert slots == sorted(slots)
    assert (slots[0], slots[-1]) == (2, 64)
    assert len(set(slots)) > 4
    with pytest.raises(BudgetError):
        make_plan(sizes, Budgets(device_bytes=least - 1), workload, DEFAULT)
