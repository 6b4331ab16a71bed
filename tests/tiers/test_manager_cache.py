"""A manager of blocks that can be made again: where there is no room for all of them, some are forgotten."""

from random import Random

import pytest

from tests.tiers.house import Build, lookup
from tests.tiers.kit import content, key
from tiers.errors import TierFullError
from tiers.manager import LookupResult


def test_what_the_lowest_level_has_no_room_for_is_forgotten(build: Build) -> None:
    """One block on the device, one in host memory, two on the drive. The last ones used are nearest."""
    house = build({"device": 1, "host": 1, "nvme": 2}, is_cache=True)
    for index in range(4):
        house.store(index)
    assert house.plan_of(range(4)) == ["", "nvme", "nvme", "device host"]
    assert lookup(house, 0) == [LookupResult.MISS]
    assert house.manager.held([key(index) for index in range(4)]) == [key(1), key(2), key(3)]
    house.load(1)
    # What was forgotten can be made again.
    house.store(0)
    house.load(0)


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


@pytest.mark.parametrize("policy", ["lru", "arc", "sieve", "lirs"])
def test_whatever_the_history_what_is_held_is_right(build: Build, policy: str) -> None:
    """Every load compares the bytes, every call checks the books."""
    house = build({"device": 3, "host": 2, "nvme": 4}, is_cache=True, policy=policy)
    random, most = Random(policy), 0
    for _ in range(150):
        wanted = random.sample(range(14), random.randint(1, 3))
        keys = house.manager.held([key(index) for index in wanted])
        house.manager.prepare_load(keys)
        house.manager.complete_load(keys)
        house.store(*[index for index in wanted if key(index) not in keys])
        house.manager.release(keys)
        house.load(*wanted)
        most = max(most, sum(map(bool, house.plan_of(range(14)))))
        house.manager.check()
    assert 6 <= most <= 9
