"""The memory manager step by step, with a handful of blocks: what moves, what stays, what is counted."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiers.house import Build, House, lookup
from tests.tiers.kit import content, key
from tiers.errors import TierFullError
from tiers.manager import LookupResult, ManagerStats

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
    assert (house.manager.stats.misses, house.manager.stats.accesses) == (3, 10)


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


def test_a_level_full_of_last_copies_says_so_without_a_look_at_each(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = build({"device": 2, "nvme": 2})
    house.store(0, 1)
    house.store(2)
    house.load(2)
    house.store(3)
    house.load(2, 3)
    asked: list[int] = []

    def evict(n: int, _protected: object) -> list[object]:
        asked.append(n)
        return []

    monkeypatch.setattr(house.manager.levels[1].policy, "evict", evict)
    with pytest.raises(TierFullError, match="tier 'nvme' is full: 1 blocks wanted, room for 0"):
        house.manager.prepare_load([key(0)])
    assert not asked


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
        (lambda house: house.manager._placement.claims.add(key(1)), "pins 0, wanted by 1"),
        (lambda house: house.manager._placement.pinned.update({key(9): 1}), "a block that is gone is pinned"),
        (lambda house: house.levels[0].slots.__setitem__(key(1), 0), "level 0: two blocks in one slot"),
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
