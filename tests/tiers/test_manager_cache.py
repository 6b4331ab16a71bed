"""A manager of blocks that can be made again: where there is no room for all of them, some are forgotten."""

from random import Random

import pytest

from tests.tiers.house import Build, lookup
from tests.tiers.kit import content, key
from tiers.errors import TierFullError
from tiers.fault_injection import Fault, FaultPlan
from tiers.manager import LookupResult


def test_what_the_lowest_level_has_no_room_for_is_forgotten(build: Build) -> None:
    """One block on the device, three in host memory, two on the drive. The last ones used are nearest."""
    house = build({"device": 1, "host": 3, "nvme": 2}, is_cache=True)
    for index in range(7):
        house.store(index)
        house.settle(*range(index + 1))
    # One slot of the host is ready for others: what it would part with next is on the drive as well.
    assert house.plan_of(range(7)) == ["", "", "", "nvme", "host nvme", "host", "device host"]
    assert lookup(house, 0) == [LookupResult.MISS]
    assert house.manager.held([key(index) for index in range(7)]) == [key(index) for index in (3, 4, 5, 6)]
    house.load(3)
    # What was forgotten can be made again.
    house.store(0)
    house.load(0)


def test_what_was_to_leave_stays_if_it_is_used(build: Build) -> None:
    house = build({"device": 1, "host": 2, "nvme": 4}, is_cache=True)
    for index in range(4):
        house.store(index)
        house.settle(*range(index + 1))
    assert list(house.levels[1].leaving) == [key(2)]
    house.load(2)
    assert not house.levels[1].leaving
    assert key(2) in house.levels[1].policy
    house.manager.check()


def test_more_than_a_level_holds_goes_down_in_portions(build: Build) -> None:
    """Five blocks leave the device at once, the host has room for two of them, the drive for the others."""
    house = build({"device": 5, "host": 2, "nvme": 8}, is_cache=True)
    house.store(0, 1, 2, 3, 4)
    assert house.plan_of(range(5)) == ["device host"] * 2 + ["device nvme"] * 3
    house.store(5, 6, 7, 8, 9)
    house.load(2, 3, 4)
    assert len(house.manager.held([key(index) for index in range(10)])) >= 8


def test_what_there_is_no_room_for_below_is_dropped(build: Build) -> None:
    """A cache never fails for want of room below: it holds less."""
    house = build({"device": 4, "host": 1}, is_cache=True)
    house.store(0, 1, 2, 3)
    house.store(4, 5, 6, 7)
    assert house.manager.held([key(index) for index in range(4)]) in ([key(0)], [])
    house.load(4, 5, 6, 7)


def test_nobody_waits_for_a_drive_behind_the_host(build: Build) -> None:
    """It never answers; what would be written to it is dropped, and the rest is as it was."""
    house = build({"device": 2, "host": 4, "nvme": 8}, plan=FaultPlan(writes={0: Fault.HANG}), is_cache=True)
    for index in range(0, 20, 2):
        house.store(index, index + 1)
    held = house.numbers_of(house.manager.held([key(index) for index in range(20)]))
    assert held == [0, 1, 18, 19], "the first two are being written, and keep two slots of the host until then"
    house.load(0, 1)
    house.load(18, 19)
    house.faulty.release()


def test_a_block_that_is_in_use_is_not_forgotten(build: Build) -> None:
    house = build({"device": 2}, is_cache=True)
    house.store(0, 1)
    house.open(0)
    house.store(2)
    assert house.plan_of(range(3)) == ["device", "", "device"]
    house.open(2)
    with pytest.raises(TierFullError, match="tier 'device' is full"):
        house.manager.prepare_store([key(3)])
    assert house.plan_of(range(3)) == ["device", "", "device"]
    house.manager.release([key(0), key(2)])
    house.store(3)


def test_a_block_may_be_made_again_rather_than_loaded(build: Build) -> None:
    house = build({"device": 2, "nvme": 4}, is_cache=True)
    house.store(0, 1)
    house.store(2, 3)
    assert house.manager.sources([key(0)]) == [1]
    (slot,) = house.manager.prepare_again([key(0)])
    house.write(slot, content(0))
    assert house.plan_of(range(1)) == ["device nvme"]
    house.manager.complete_store([key(0)])
    house.manager.check()
    house.load(0)
    assert house.manager.stats.misses == 0
    house.open(0, 1)
    with pytest.raises(TierFullError):
        house.manager.prepare_again([key(2)])
    house.manager.check()


@pytest.mark.parametrize("sizes", [(3, 2, 4), (6, 1, 3), (4, 3, 12)])
@pytest.mark.parametrize("policy", ["lru", "arc", "sieve", "lirs"])
def test_whatever_the_history_what_is_held_is_right(build: Build, policy: str, sizes: tuple[int, int, int]) -> None:
    """Every load compares the bytes, every call checks the books."""
    device, host, nvme = sizes
    house = build({"device": device, "host": host, "nvme": nvme}, is_cache=True, policy=policy)
    random, most = Random(policy), 0
    for _ in range(150):
        wanted = random.sample(range(14), random.randint(1, device))
        keys = house.manager.held([key(index) for index in wanted])
        house.manager.prepare_load(keys)
        house.manager.complete_load(keys)
        house.store(*[index for index in wanted if key(index) not in keys])
        house.manager.release(keys)
        house.load(*house.numbers_of(house.manager.held([key(index) for index in wanted])))
        most = max(most, sum(map(bool, house.plan_of(range(14)))))
        house.manager.check()
    assert device < most <= device + host + nvme
