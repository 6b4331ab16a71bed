"""Blocks that are brought before they are needed: pinned until their use, and never in the way of a need."""

import pytest

from tests.tiers.house import Build, lookup
from tests.tiers.kit import content, key
from tiers.errors import TierFullError
from tiers.fault_injection import Fault, FaultPlan
from tiers.manager import LookupResult


def test_a_prefetched_block_waits_for_its_use(build: Build) -> None:
    """It is pinned until then, and no longer."""
    house = build({"device": 2, "nvme": 4})
    house.store(0, 1)
    house.store(2, 3)
    assert house.manager.prefetch([key(0)]) == [key(0)]
    house.manager.check()
    assert house.plan_of(range(4)) == ["device nvme", "nvme", "nvme", "device nvme"]
    house.load(1)
    house.load(2)
    assert house.where(0) == "device nvme", "used by nobody yet"
    house.settle(0)
    assert lookup(house, 0) == [LookupResult.HIT]
    house.load(0)
    house.load(1, 3)
    assert house.where(0) == "nvme"
    assert house.manager.stats.misses == 4


def test_a_block_on_its_way_is_pending(build: Build) -> None:
    house = build({"device": 2, "nvme": 4}, plan=FaultPlan(reads={0: Fault.HANG}))
    house.store(0, 1)
    house.store(2, 3)
    house.manager.prefetch([key(0)])
    assert lookup(house, 0) == [LookupResult.PENDING]
    house.manager.prepare_load([key(0)])
    assert house.manager.stats.pending_hits == 1
    house.faulty.release()
    (slot,) = house.manager.complete_load([key(0)])
    assert house.device.view(slot) == content(0)
    assert lookup(house, 0) == [LookupResult.HIT]


def test_a_prefetch_takes_what_there_is_room_for(build: Build) -> None:
    house = build({"device": 3, "nvme": 8})
    house.store(0, 1, 2)
    house.store(3, 4, 5)
    assert house.open(3) == [content(3)]
    assert house.manager.prefetch([key(i) for i in (0, 4, 0, 1, 2)]) == [key(0), key(0), key(1)]
    assert house.plan_of(range(6)) == ["device nvme", "device nvme", "nvme", "device nvme", "nvme", "nvme"]
    before = house.books()
    assert house.manager.prefetch([key(2), key(1)]) == [key(1)], "on the device already"
    with pytest.raises(KeyError):
        house.manager.prefetch([key(2), key(77)])
    assert house.books() == before


def test_a_prefetch_that_was_given_up_makes_room(build: Build) -> None:
    house = build({"device": 2, "nvme": 4})
    house.store(0, 1)
    house.store(2, 3)
    house.manager.prefetch([key(0), key(1)])
    with pytest.raises(TierFullError):
        house.manager.prepare_load([key(2)])
    house.manager.cancel_prefetch([key(0), key(2), key(77)])
    house.manager.check()
    house.load(2)
    assert house.plan_of(range(4)) == ["nvme", "device nvme", "device nvme", "nvme"]
    house.manager.cancel_prefetch([key(0), key(1)])
    house.manager.cancel_prefetch([key(1)])
    house.load(0, 3)


def test_a_prefetch_for_which_nothing_can_leave_is_no_error(build: Build) -> None:
    house = build({"device": 1, "nvme": 1})
    house.store(0)
    house.store(1)
    assert house.plan_of(range(2)) == ["nvme", "device"]
    before = house.books()
    assert house.manager.prefetch([key(0)]) == []
    assert house.books() == before


def test_a_prefetch_that_failed_is_tried_again(build: Build) -> None:
    """By the next prefetch and by whoever needs it; until then the block is below."""
    plan = FaultPlan(reads={0: Fault.IO_ERROR, 1: Fault.SHORT})
    house = build({"device": 2, "nvme": 4}, plan=plan)
    house.store(0, 1)
    house.store(2, 3)
    for _ in range(2):
        assert house.manager.prefetch([key(0)]) == [key(0)]
        house.settle(0)
        assert lookup(house, 0) == [LookupResult.BELOW]
        house.manager.check()
    house.load(0)
    assert house.faulty.faults.num_reads == 3
    house.load(1, 2)
    assert house.where(0) == "nvme", "no pin is left of any attempt"


def test_a_guess_that_was_wrong_is_called_off(build: Build) -> None:
    """What has not begun never does, and its slot is free. With two requests in flight at a time the third has not."""
    house = build({"device": 5, "nvme": 8}, plan=FaultPlan(reads={0: Fault.HANG, 1: Fault.HANG}))
    house.store(0, 1, 2, 3, 4)
    house.store(5, 6, 7, 8, 9)
    guesses = [key(0), key(1), key(2)]
    assert house.manager.prefetch(guesses, is_guess=True) == guesses
    assert lookup(house, 0, 1, 2) == [LookupResult.PENDING] * 3
    house.manager.cancel_prefetch(guesses)
    house.manager.check()
    assert lookup(house, 2) == [LookupResult.BELOW]
    assert house.where(2) == "nvme"
    house.faulty.release()
    house.load(2, 0)
    house.load(1, 2)


def test_a_guess_that_somebody_waits_for_is_not(build: Build) -> None:
    house = build({"device": 5, "nvme": 8}, plan=FaultPlan(reads={0: Fault.HANG, 1: Fault.HANG}))
    house.store(0, 1, 2, 3, 4)
    house.store(5, 6, 7, 8, 9)
    house.manager.prefetch([key(0), key(1), key(2)], is_guess=True)
    house.manager.prepare_load([key(2)])
    house.manager.cancel_prefetch([key(2)])
    house.faulty.release()
    (slot,) = house.manager.complete_load([key(2)])
    assert house.device.view(slot) == content(2)
    house.release(2)
