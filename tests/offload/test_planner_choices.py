"""What the planner prefers, what it says of its plans, and what it refuses."""

import itertools
from dataclasses import replace

import pytest

from offload.plan import Budgets, Workload
from offload.plan_experts import typical_hit_ratio
from offload.planner import make_plan, smallest_device_bytes
from simulators.profile import DEFAULT
from tests.offload.planner_kit import MIB, PAGE, SHORT, SMALL, full_nbytes, make_profile
from tiers.errors import BudgetError, InvalidOptionError


def test_three_slots_are_preferred_for_a_long_stream() -> None:
    sizes = replace(SMALL, layer_nbytes=(MIB,) * 40, num_layers=40)
    least = smallest_device_bytes(sizes, Budgets(), SHORT)
    budgets = [Budgets(least + extra * MIB) for extra in (0, 1, 4)]
    plans = [make_plan(sizes, budget, SHORT, make_profile(1e9, 1e10)) for budget in budgets]
    assert [plan.staging_slots for plan in plans] == [1, 2, 3]


def test_resident_layers_are_spread_over_the_model() -> None:
    """The drive then reads on while the resident layer in between is computed."""
    least = smallest_device_bytes(SMALL, Budgets(), SHORT)
    plan = make_plan(SMALL, Budgets(least + 5 * MIB), SHORT, make_profile(1e9, 1e10))
    places = [i for i, (name, _) in enumerate(SMALL.streamable) if name in plan.resident and name.startswith("layers")]
    assert len(places) > 1
    assert all(later - earlier > 1 for earlier, later in itertools.pairwise(places))


def test_the_embedding_gives_way_first() -> None:
    """Its rows are read one by one, which costs far less than reading layers."""
    full = full_nbytes(SMALL, SHORT)
    plan = make_plan(SMALL, Budgets(full - MIB), SHORT, make_profile(1e9, 1e10))
    assert plan.streamed == SMALL.embedding_names
    assert plan.staging_slots == 0
    assert plan.missed_weight_bytes_per_token == 0


def test_the_host_takes_cache_blocks_before_the_drive() -> None:
    sizes = replace(SMALL, kv_nbytes_per_token_layer=16384)
    least = smallest_device_bytes(sizes, Budgets(), SHORT)
    for blocks in (0, 5, 1000):
        plan = make_plan(sizes, Budgets(least, blocks * sizes.kv_block_nbytes), SHORT, make_profile(1e9, 1e10))
        away = plan.kv_host_blocks + plan.kv_nvme_blocks
        assert plan.kv_host_blocks == min(blocks, away)


def test_a_slow_drive_makes_chunks_large() -> None:
    """Each chunk reads every missing weight again."""
    workload = Workload(1, 512, 1)
    least = smallest_device_bytes(SMALL, Budgets(), workload)
    budgets = Budgets(least + 4 * MIB)
    slow = make_plan(SMALL, budgets, workload, make_profile(1e8, 1e10))
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
        BudgetError, match=r"^--nvme-memory 4KiB: .* works beside --device-memory [0-9.]+MiB is 1MiB$"
    ) as caught:
        make_plan(SMALL, Budgets(least, None, PAGE), SHORT, DEFAULT)
    assert caught.value.wanted_bytes == make_plan(SMALL, Budgets(least), SHORT, DEFAULT).kv_nvme_blocks * 4096
    with pytest.raises(BudgetError, match=r"^--device-memory "):  # without a drive no more of it is to be had
        make_plan(SMALL, Budgets(least, None, 0), SHORT, DEFAULT)


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
        hits = typical_hit_ratio(plan.expert_slots / 64)
        assert plan.missed_expert_bytes_per_token == round(8 * (1 - hits) * sizes.expert_nbytes)
    assert slots == sorted(slots)
    assert (slots[0], slots[-1]) == (2, 64)
    assert len(set(slots)) > 4
    with pytest.raises(BudgetError):
        make_plan(sizes, Budgets(device_bytes=least - 1), workload, DEFAULT)
