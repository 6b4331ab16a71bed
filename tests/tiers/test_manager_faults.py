"""A bad drive under the manager: somebody is told, nobody gets wrong bytes, no slot and no pin is lost."""

import itertools
from typing import Any

import pytest

from tests.contracts.tier import raw_put
from tests.tiers.house import Build, lookup
from tests.tiers.kit import content, key
from tiers.errors import CorruptBlockError, TierError, TierFullError, TransferError
from tiers.fault_injection import Fault, FaultPlan
from tiers.manager import LookupResult
from tiers.tier import SupportsDirectIO


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


@pytest.mark.parametrize("failing_call", [1, 2])
@pytest.mark.parametrize("is_prefetch", [True, False])
def test_a_link_that_cannot_be_opened_costs_no_slot_and_no_pin(
    build: Build, monkeypatch: pytest.MonkeyPatch, failing_call: int, *, is_prefetch: bool
) -> None:
    house = build({"device": 2}, num_backed=4)
    submit, calls = house.engine.submit, itertools.count(1)

    def fail_once(*args: Any) -> Any:
        if next(calls) == failing_call:
            raise TierError("ring: no memory to pin", tier="ring")
        return submit(*args)

    monkeypatch.setattr(house.engine, "submit", fail_once)
    keys = [key(0), key(1)]
    if is_prefetch:
        house.manager.cancel_prefetch(house.manager.prefetch(keys))
    else:
        with pytest.raises(TierError, match="no memory to pin"):
            house.manager.prepare_load(keys)
    house.manager.check()
    house.load(2, 3)
    house.manager.check()
    assert house.manager.room == 2


def test_a_way_down_that_cannot_be_opened_costs_no_slot(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    house = build({"device": 2, "nvme": 4})
    house.store(0)

    def fail(*_: Any) -> Any:
        raise TierError("ring: no memory to pin", tier="ring")

    with monkeypatch.context() as patch:
        patch.setattr(house.engine, "submit", fail)
        house.store(1)  # which copies down ahead, if it can
        with pytest.raises(TierError, match="no memory to pin"):
            house.store(2, 3)
        house.manager.check()
    house.store(4)
    house.load(0, 1)
    house.manager.check()
