"""Who may write a block, how long it is there, and calls that are refused without a trace."""

from collections.abc import Callable

import pytest

from tests.tiers.house import Build, lookup
from tests.tiers.kit import content, key
from tiers.errors import TierFullError
from tiers.fault_injection import Fault, FaultPlan
from tiers.manager import LookupResult

# Writing once more.


def test_reopening_drops_the_copies_that_are_stale(build: Build) -> None:
    house = build({"device": 2, "host": 2, "nvme": 4})
    house.store(0, 1)
    house.store(2, 3)
    assert house.where(0) == "host"
    slot = house.manager.reopen(key(0))
    house.manager.check()
    assert house.device.view(slot) == content(0), "it begins with what it held"
    assert house.where(0) == "device"
    house.store(4)
    assert house.where(0) == "device", "open blocks stay"
    house.write(slot, content(100))
    house.manager.complete_store([key(0)])
    house.load(1, 2)
    house.load(3, 4)
    assert house.open(0) == [content(100)]
    house.release(0)


def test_reopening_waits_for_a_copy_on_its_way(build: Build) -> None:
    """Which would else take the new bytes for the old ones, or land in somebody else's slot."""
    house = build({"device": 2, "nvme": 4}, plan=FaultPlan(writes={0: Fault.DELAY}))
    house.store(0)
    house.store(1)
    assert house.where(0) == "device nvme"
    slot = house.manager.reopen(key(0))
    assert house.where(0) == "device"
    house.write(slot, content(100))
    house.manager.complete_store([key(0)])
    house.load(1)
    assert house.open(0) == [content(100)]


def test_reopening_does_not_mind_a_copy_that_failed(build: Build) -> None:
    house = build({"device": 4, "nvme": 4}, plan=FaultPlan(writes={0: Fault.IO_ERROR}))
    house.store(0, 1)
    slot = house.manager.reopen(key(0))
    house.write(slot, content(100))
    house.manager.complete_store([key(0)])
    house.manager.check()
    house.store(2, 3)
    house.store(4, 5)
    assert house.open(0) == [content(100)]


def test_misuse_is_noticed_before_it_does_harm(build: Build) -> None:
    house = build({"device": 3, "nvme": 4})
    house.store(0)
    house.manager.prepare_store([key(1)])
    before = house.books()
    misuses: list[tuple[str, Callable[[], object]]] = [
        ("stored once", lambda: house.manager.prepare_store([key(2), key(0)])),
        ("stored once", lambda: house.manager.prepare_store([key(2), key(2)])),
        ("reopened once", lambda: house.manager.reopen(key(1))),
        ("released more often than loaded", lambda: house.release(0)),
        ("without prepare_store", lambda: house.manager.complete_store([key(0)])),
    ]
    for message, misuse in misuses:
        with pytest.raises(AssertionError, match=message):
            misuse()
        assert house.books() == before
    house.open(0)
    with pytest.raises(AssertionError, match="while somebody reads it"):
        house.manager.discard([key(0)])
    house.release(0)
    with pytest.raises(AssertionError):
        house.manager.complete_load([key(0)])


# Owners.


def test_a_block_is_there_until_its_last_owner_is_gone(build: Build) -> None:
    house = build({"device": 2, "nvme": 4})
    house.store(0, 1)
    house.store(2, 3)
    house.manager.share([key(0), key(2)])
    assert house.manager.is_shared(key(0))
    house.manager.discard([key(0), key(1), key(2)])
    assert not house.manager.is_shared(key(0))
    assert lookup(house, 0, 1, 2) == [LookupResult.BELOW, LookupResult.MISS, LookupResult.HIT]
    house.load(0, 2)
    house.manager.discard([key(0), key(2), key(3)])
    house.manager.check()
    assert house.free_slots() == [2, 4]
    house.store(0)
    house.load(0)


def test_discarding_waits_for_what_is_on_its_way(build: Build) -> None:
    """In either direction, prefetched, open or neither; after it all slots are free and nothing writes to them."""
    faults = {0: Fault.DELAY, 1: Fault.DELAY}
    house = build({"device": 3, "nvme": 4}, plan=FaultPlan(reads=faults, writes=faults, delay_s=0.005))
    house.store(0, 1)
    house.store(2)
    house.store(3)
    house.manager.prefetch([key(0)])
    house.manager.prepare_store([key(4)])
    house.manager.discard([key(i) for i in range(5)])
    house.manager.check()
    assert house.free_slots() == [3, 4]


def test_discarding_does_not_mind_what_failed(build: Build) -> None:
    """A block that nobody wants any more is no reason for an error, nor for keeping the others."""
    plan = FaultPlan(writes={1: Fault.IO_ERROR}, reads={0: Fault.IO_ERROR})
    house = build({"device": 2, "nvme": 4}, plan=plan)
    house.store(0)
    house.store(1)
    house.store(2)
    house.manager.prefetch([key(0)])
    house.manager.discard([key(i) for i in range(3)])
    house.manager.check()
    assert lookup(house, 0, 1, 2) == [LookupResult.MISS] * 3
    assert house.free_slots() == [2, 4]


# All or nothing.


def test_a_call_for_which_there_is_no_room_changes_nothing(build: Build) -> None:
    house = build({"device": 3, "nvme": 8})
    house.store(0, 1, 2)
    house.store(3, 4, 5)
    house.open(3)
    house.manager.prefetch([key(0)])
    house.settle(0)
    before = house.books()
    with pytest.raises(TierFullError) as caught:
        house.manager.prepare_load([key(0), key(3), key(1), key(2), key(1)])
    assert (caught.value.tier, caught.value.wanted_slots, caught.value.available_slots) == ("device", 2, 1)
    with pytest.raises(KeyError):
        house.manager.prepare_load([key(0), key(3), key(77)])
    with pytest.raises(TierFullError):
        house.manager.prepare_store([key(6), key(7)])
    assert house.books() == before
    house.manager.check()
    house.load(1)
    house.load(0, 2)


def test_the_numbers_count_free_slots_and_those_that_can_be_freed(build: Build) -> None:
    house = build({"device": 4, "nvme": 8})
    house.store(0, 1)
    house.open(0)
    with pytest.raises(TierFullError, match="tier 'device' is full: 4 blocks wanted, room for 3"):
        house.manager.prepare_store([key(i) for i in range(10, 14)])
    with pytest.raises(TierFullError, match="9 blocks wanted, room for 3"):
        house.manager.prepare_store([key(i) for i in range(10, 19)])
    house.release(0)
