"""The memory manager step by step, with a handful of blocks: what moves, what stays, what is refused."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contracts.tier import raw_put
from tests.tiers.house import House
from tests.tiers.kit import content, key
from tiers.errors import CorruptBlockError, TierFullError, TransferError
from tiers.fault_injection import Fault, FaultPlan
from tiers.manager import LookupResult, ManagerStats
from tiers.tier import SupportsDirectIO

Build = Callable[..., House]


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """Makes houses, checks their books and tears them down."""
    houses: list[House] = []

    def make(levels: dict[str, int], **options: object) -> House:
        house = House(tmp_path / str(len(houses)), levels, **options)  # type: ignore[arg-type]  # passed on as they are
        houses.append(house)
        return house

    yield make
    for house in houses:
        house.manager.check()
        house.close()


def lookup(house: House, *indices: int) -> list[LookupResult]:
    return [house.manager.lookup(key(index)) for index in indices]


# Two levels.


def test_blocks_move_down_and_come_back(build: Build) -> None:
    """Four blocks in two slots on the device and four on the drive."""
    house = build({"device": 2, "nvme": 4})
    # 0 and 1 fill the device. Each store leaves it short of room, so both are copied down at once.
    house.store(0)
    house.store(1)
    assert house.plan_of(range(4)) == ["device nvme", "device nvme", "", ""]
    # 2 and 3 take their slots for nothing.
    house.store(2, 3)
    assert house.plan_of(range(4)) == ["nvme", "nvme", "device nvme", "device nvme"]
    assert lookup(house, 0, 2, 9) == [LookupResult.BELOW, LookupResult.HIT, LookupResult.MISS]
    # 0 comes back, for which the least recently used block, 2, has to leave; the copies below stay.
    house.load(0)
    assert house.plan_of(range(4)) == ["device nvme", "nvme", "nvme", "device nvme"]
    house.load(3, 0)
    house.load(1, 2)
    stats = house.manager.stats
    assert (stats.hits, stats.pending_hits, stats.misses) == (2, 0, 3)
    assert (stats.evictions, stats.write_backs) == (5, 4)
    assert stats.hit_ratio == 2 / 5
    assert house.engine.links["device->nvme"].num_blocks == 4, "every block is written once"


def test_a_block_is_not_written_while_there_is_room(build: Build) -> None:
    house = build({"device": 4, "nvme": 8})
    house.store(0)
    house.store(1)
    assert house.plan_of(range(2)) == ["device", "device"]
    house.store(2)
    assert house.plan_of(range(3)) == ["device", "device", "device nvme"]
    # Those that were not copied in time are copied when their slot is needed.
    house.store(3)
    house.store(4)
    assert house.plan_of(range(5)) == ["nvme", "device", "device nvme", "device nvme", "device nvme"]
    house.load(0)
    assert house.plan_of(range(3)) == ["device nvme", "nvme", "device nvme"]
    house.load(1)


def test_one_level_is_enough_while_everything_fits(build: Build) -> None:
    house = build({"device": 2})
    house.store(0, 1)
    house.load(1, 0)
    with pytest.raises(TierFullError, match="tier 'device' is full: 1 blocks wanted, room for 0; raise its budget"):
        house.manager.prepare_store([key(2)])
    house.manager.discard([key(0)])
    house.store(2)
    house.load(1, 2)


def test_neighbours_are_asked_for_and_given(build: Build) -> None:
    manager = build({"device": 8, "nvme": 8}).manager
    assert manager.prepare_store([key(0), key(1)], prefer=4) == [4, 5]
    assert manager.prepare_store([key(2)], prefer=6) == [6]
    assert manager.prepare_store([key(3), key(4)], prefer=6) == [0, 1]


def test_what_is_in_use_stays(build: Build) -> None:
    house = build({"device": 2, "nvme": 4})
    house.store(0, 1)
    assert house.open(0) == [content(0)]
    house.store(2)
    house.store(3)
    assert house.plan_of(range(4)) == ["device nvme", "nvme", "nvme", "device nvme"]
    house.release(0)
    house.load(1, 2)
    assert house.plan_of(range(4)) == ["nvme", "device nvme", "device nvme", "nvme"]


def test_a_block_is_pinned_once_for_each_use(build: Build) -> None:
    """By the same call and by different ones, on the device already or on its way."""
    house = build({"device": 2, "nvme": 4})
    house.store(0, 1)
    house.store(2, 3)
    for there in (2, 0):
        house.manager.prepare_load([key(there), key(there)])
        house.manager.prepare_load([key(there)])
        (slot, *others) = house.manager.complete_load([key(there)] * 3)
        assert others == [slot, slot]
        assert house.device.view(slot) == content(there)
        house.manager.check()
        house.release(there, there)
        with pytest.raises(TierFullError):
            house.manager.prepare_load([key(1), key(3)])
        house.release(there)
        house.load(1, 3)


def test_a_block_is_not_for_others_before_it_is_complete(build: Build) -> None:
    """It stays where it is, whatever else needs the room, and its owner may go back and write on."""
    house = build({"device": 2, "nvme": 4})
    (slot,) = house.manager.prepare_store([key(0)])
    house.store(1)
    house.store(2)
    assert house.plan_of(range(3)) == ["device", "nvme", "device nvme"]
    with pytest.raises(TierFullError):
        house.manager.prepare_store([key(3), key(4)])
    house.write(slot, content(0))
    house.manager.complete_store([key(0)])
    house.load(1, 2)
    house.load(0)


# Three levels.


def test_blocks_sink_as_deep_as_they_must(build: Build) -> None:
    house = build({"device": 1, "host": 2, "nvme": 4})
    for index in range(5):
        house.store(index)
    # The host takes the first two copies, the drive the rest; nothing is moved twice.
    assert house.plan_of(range(5)) == ["host", "host", "nvme", "nvme", "device nvme"]
    for index in (0, 2, 4, 1, 3):
        house.load(index)
    links = {name: stats.num_blocks for name, stats in house.engine.links.items()}
    assert links == {"device->host": 2, "device->nvme": 3, "host->device": 2, "nvme->device": 3}


def test_the_lowest_level_drops_what_exists_elsewhere(build: Build) -> None:
    """Although its policy would rather part with a block that exists nowhere else."""
    house = build({"device": 2, "nvme": 2})
    house.store(0, 1)  # both with copies below
    house.store(2)  # takes the slot of 0, whose copy below is the only one now and the oldest
    assert house.plan_of(range(3)) == ["nvme", "device", "device nvme"], "the copy of 1 made room for that of 2"
    house.load(2)
    house.store(3)
    assert house.plan_of(range(4)) == ["nvme", "nvme", "device", "device"]
    house.load(2, 3)
    with pytest.raises(TierFullError, match="tier 'nvme' is full: 1 blocks wanted, room for 0"):
        house.manager.prepare_load([key(0)])
    with pytest.raises(TierFullError):
        house.manager.prepare_store([key(4)])
    house.manager.discard([key(2)])
    house.load(0)
    house.load(1, 3)


def test_a_level_in_between_drops_what_exists_elsewhere(build: Build) -> None:
    """When the drive is full of blocks that exist nowhere else, a copy on the host still makes room."""
    house = build({"device": 2, "host": 2, "nvme": 2})
    house.store(0, 1)
    house.store(2, 3)
    house.store(4)
    assert house.plan_of(range(5)) == ["host", "host", "nvme", "device", "device nvme"]
    house.load(1)
    assert house.plan_of(range(5)) == ["host", "device host", "nvme", "nvme", "device"]
    house.load(2)
    assert house.plan_of(range(5)) == ["host", "device", "device nvme", "nvme", "host"]
    house.load(0)
    for index in range(5):
        house.load(index)


# A read-only tier below.


def test_weights_come_from_below_and_are_never_written(build: Build) -> None:
    house = build({"device": 2}, num_backed=4)
    assert lookup(house, *range(4)) == [LookupResult.BELOW] * 4
    for index in (0, 1, 2, 3, 0):
        house.load(index)
    house.load(0, 3)
    assert house.plan_of(range(4)) == ["device", "", "", "device"]
    assert house.manager.stats == ManagerStats(hits=2, misses=5, evictions=3)
    assert house.engine.links.keys() == {"weights->device"}


def test_weights_share_the_levels_with_blocks_of_our_own(build: Build) -> None:
    house = build({"device": 2, "host": 2}, num_backed=2)
    house.load(0, 1)
    house.store(2, 3)
    house.load(0, 1)
    assert house.plan_of(range(4)) == ["device", "device", "host", "host"]
    house.load(2, 0)
    house.load(3, 1)
    with pytest.raises(AssertionError, match="read only"):
        house.manager.reopen(key(0))
    with pytest.raises(AssertionError, match="adopted once"):
        house.manager.adopt({key(0): 0})


# Prefetching.


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


# A bad drive.


def test_a_load_that_fails_leaves_the_block_below(build: Build) -> None:
    """And all blocks of the call unpinned; it may succeed another time."""
    house = build({"device": 2, "nvme": 4}, plan=FaultPlan(reads={1: Fault.IO_ERROR}))
    house.store(0, 1)
    house.store(2, 3)
    house.load(0)
    keys = [key(0), key(1)]
    house.manager.prepare_load(keys)
    with pytest.raises(TransferError, match="nvme->device: Input/output error"):
        house.manager.complete_load(keys)
    house.manager.check()
    assert lookup(house, 0, 1) == [LookupResult.HIT, LookupResult.BELOW]
    assert house.plan_of(range(4)) == ["device nvme", "nvme", "nvme", "nvme"]
    house.load(1, 2)


def test_a_corrupt_block_is_never_given_out(build: Build) -> None:
    """It fails whoever asks for it, and nobody else, until it is discarded."""
    house = build({"device": 2, "nvme": 4})
    house.store(0, 1)
    house.store(2, 3)
    nvme = house.tiers["nvme"]
    assert isinstance(nvme, SupportsDirectIO)
    raw_put(nvme, 0, content(666))
    for _ in range(2):
        house.manager.prepare_load([key(0)])
        with pytest.raises(CorruptBlockError):
            house.manager.complete_load([key(0)])
        house.manager.check()
    house.load(1, 2)
    house.manager.discard([key(0)])
    house.store(0)
    house.load(0)


def test_two_readers_of_a_block_that_fails(build: Build) -> None:
    """The first one gets the error; the second one's wait tries again."""
    house = build({"device": 2, "nvme": 4}, plan=FaultPlan(reads={0: Fault.IO_ERROR}))
    house.store(0, 1)
    house.store(2, 3)
    house.manager.prepare_load([key(0)])
    house.manager.prepare_load([key(0)])
    with pytest.raises(TransferError):
        house.manager.complete_load([key(0)])
    house.manager.check()
    (slot,) = house.manager.complete_load([key(0)])
    house.manager.check()
    assert house.device.view(slot) == content(0)
    house.release(0)
    house.load(1, 3)


def test_a_write_back_that_fails_is_tried_again(build: Build) -> None:
    """When its slot is needed. As long as that fails too, the block stays, and whoever needs the room is told."""
    faults = dict.fromkeys(range(3), Fault.IO_ERROR)
    house = build({"device": 1, "nvme": 2}, plan=FaultPlan(writes=faults))
    house.store(0)
    before = house.books()
    for _ in range(2):
        with pytest.raises(TransferError, match="device->nvme: Input/output error"):
            house.manager.prepare_store([key(1)])
        house.manager.check()
        assert house.where(0) == "device"
    assert house.books() != before, "the copy that failed has been dropped"
    house.load(0)
    house.store(1)
    assert house.where(0) == "nvme"
    house.load(0)


def test_a_store_does_not_fail_because_another_block_cannot_leave(build: Build) -> None:
    """It is complete once it is written; the copy below is for later."""
    house = build({"device": 1, "host": 1, "nvme": 1}, plan=FaultPlan(gone_from=0))
    house.store(0)
    slot = house.manager.prepare_store([key(1)])[0]
    house.write(slot, content(1))
    house.manager.complete_store([key(1)])
    house.manager.check()
    house.load(1)


def test_a_copy_that_failed_is_no_room_for_others(build: Build) -> None:
    """The lower level evicts a block whose copy there never arrived: the upper one is the last, and it stays."""
    house = build({"device": 3, "nvme": 1}, plan=FaultPlan(writes={0: Fault.IO_ERROR}))
    house.store(0)
    house.store(1)
    assert house.where(1) == "device nvme"
    house.settle(1)
    house.store(2)
    house.manager.check()
    house.store(3)
    house.manager.check()
    house.load(1)
    house.load(2, 3)


def test_a_drive_that_hangs_cannot_spoil_other_blocks(build: Build) -> None:
    """A load that was given up may still be written by the drive: its slot is no other block's until that is over."""
    house = build({"device": 2, "nvme": 4}, plan=FaultPlan(reads={0: Fault.HANG}), stall_timeout_s=0.05)
    house.store(0, 1)
    house.store(2, 3)
    with pytest.raises(TransferError, match="no answer"):
        house.open(0)
    house.manager.check()
    assert lookup(house, 0) == [LookupResult.BELOW]
    # One of the two slots is out of use; the other one serves whoever comes.
    assert house.free_slots() == [0, 4 - 4]
    assert house.where(3) == "device nvme"
    house.load(3)
    with pytest.raises(TierFullError):
        house.manager.prepare_store([key(4), key(5)])
    house.manager.discard([key(3), key(2)])
    (slot,) = house.manager.prepare_store([key(4)])
    house.write(slot, content(4))
    house.faulty.release()
    house.engine.close()
    assert house.device.view(slot) == content(4)
    house.manager.complete_store([key(4)])
    # Now that the drive has answered, both slots are there again.
    house.load(0, 1)
    house.load(4)


def test_a_drive_that_hangs_cannot_spoil_a_copy_below(build: Build) -> None:
    """The same for a write that was given up: its slot on the drive is not used for another block meanwhile."""
    house = build({"device": 1, "nvme": 2}, plan=FaultPlan(writes={0: Fault.HANG}), stall_timeout_s=0.05)
    house.store(0)
    with pytest.raises(TransferError, match="no answer"):
        house.manager.prepare_store([key(1)])
    house.manager.check()
    house.manager.discard([key(0)])
    assert house.free_slots() == [1, 1]
    house.faulty.release()
    house.engine.close()
    house.store(1)
    house.store(2)
    assert house.plan_of((1, 2)) == ["nvme", "device nvme"]
    house.load(1)
    house.load(2)


# The books.


def test_the_hit_ratio_of_nothing_is_perfect() -> None:
    assert ManagerStats().hit_ratio == 1.0
    assert ManagerStats(hits=2, pending_hits=1, misses=1).hit_ratio == 0.75


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda house: house.levels[0].pool.allocate(1), "level 0: 2 blocks, 0 stranded, 3 slots used"),
        (lambda house: house.levels[0].policy.remove(key(0)), "level 0: policy knows 1 of 2 blocks"),
        (lambda house: house.levels[0].pool.reopen(0), r"level 0: KVBlockKey\(.*block=0\) in slot 0"),
        (lambda house: setattr(house.manager._entries[key(1)], "pins", 1), "pins 1"),
        (lambda house: house.manager._placement.pinned.update({key(9): None}), "a block that is gone is pinned"),
        (lambda house: house.manager._entries[key(1)].slots.__setitem__(0, 0), "level 0: two blocks in one slot"),
    ],
)
def test_check_finds_what_does_not_add_up(tmp_path: Path, damage: Callable[[House], object], message: str) -> None:
    house = House(tmp_path, {"device": 4, "nvme": 4})
    house.store(0)
    house.store(1)
    damage(house)
    with pytest.raises(AssertionError, match=message):
        house.manager.check()
    house.close()
