"""Slots of one tier: never handed out twice, never lost."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tiers.pool import BlockPool

CAPACITY = 7


def gaps_of(slots: list[int]) -> list[list[int]]:
    """Runs of neighbours in ascending slots."""
    runs: list[list[int]] = []
    for slot in slots:
        if runs and slot == runs[-1][-1] + 1:
            runs[-1].append(slot)
        else:
            runs.append([slot])
    return runs


class PoolMachine(RuleBasedStateMachine):
    """A pool against a dict of states and a dict of pins."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(CAPACITY)
        self.is_resident: dict[int, bool] = {}
        self.pins: dict[int, int] = {}
        self.peak = 0

    @property
    def free(self) -> list[int]:
        return [slot for slot in range(CAPACITY) if slot not in self.is_resident]

    @rule(n=st.integers(0, CAPACITY + 1), prefer=st.none() | st.integers(0, CAPACITY + 1))
    def allocate(self, n: int, prefer: int | None) -> None:
        free = self.free
        slots = self.pool.allocate(n, prefer)
        if n > len(free):
            assert slots == [], "all or nothing"
            return
        assert len(set(slots)) == n
        assert set(slots) <= set(free)
        gaps = gaps_of(free)
        if n and prefer is not None and set(range(prefer, prefer + n)) <= set(free):
            assert slots == list(range(prefer, prefer + n)), "where the caller likes it best"
        elif n and max(len(gap) for gap in gaps) >= n:
            start = min((gap for gap in gaps if len(gap) >= n), key=len)[0]
            assert slots == list(range(start, start + n)), "neighbours, out of the smallest gap that holds them"
        elif n:
            largest = itertools.accumulate(sorted(map(len, gaps), reverse=True))
            fewest = next(count for count, total in enumerate(largest, 1) if total >= n)
            assert len(gaps_of(slots)) == fewest, "as few pieces as can be"
        self.is_resident.update(dict.fromkeys(slots, False))
        self.peak = max(self.peak, len(self.is_resident))

    @precondition(lambda self: self.is_resident)
    @rule(data=st.data())
    def change(self, data: st.DataObject) -> None:
        """One step of a slot that is taken, allowed or not; one that is not allowed changes nothing."""
        slot = data.draw(st.sampled_from(sorted(self.is_resident)))
        pins, is_resident = self.pins.get(slot, 0), self.is_resident[slot]
        steps: dict[str, tuple[Callable[[int], None], bool]] = {
            "publish": (self.pool.publish, not is_resident),
            "reopen": (self.pool.reopen, is_resident),
            "pin": (self.pool.pin, True),
            "unpin": (self.pool.unpin, pins > 0),
            "free": (self.pool.free, pins == 0),
        }
        name = data.draw(st.sampled_from(sorted(steps)))
        step, is_allowed = steps[name]
        if not is_allowed:
            with pytest.raises(AssertionError):
                step(slot)
            return
        step(slot)
        if name == "free":
            del self.is_resident[slot]
        elif name in ("publish", "reopen"):
            self.is_resident[slot] = name == "publish"
        else:
            self.pins[slot] = pins + (1 if name == "pin" else -1)

    @precondition(lambda self: self.free)
    @rule(data=st.data())
    def misuse_a_free_slot(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(self.free))
        for step in (self.pool.publish, self.pool.reopen, self.pool.pin, self.pool.unpin, self.pool.free):
            with pytest.raises(AssertionError):
                step(slot)

    @invariant()
    def adds_up(self) -> None:
        self.pool.check()
        assert self.pool.num_used == len(self.is_resident) == CAPACITY - self.pool.num_free
        assert self.pool.peak_used == self.peak
        for slot in range(CAPACITY):
            assert self.pool.is_resident(slot) == self.is_resident.get(slot, False)
            assert self.pool.is_pinned(slot) == (self.pins.get(slot, 0) > 0)


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_fills_gaps_when_no_run_is_long_enough() -> None:
    pool = BlockPool(6)
    pool.allocate(6)
    for slot in (0, 2, 3, 5):
        pool.free(slot)
    assert pool.allocate(2) == [2, 3]
    pool.free(2)
    pool.free(3)
    assert pool.allocate(3) == [0, 2, 3]


def test_a_large_pool_takes_the_next_gap_that_holds_them() -> None:
    """Else gaps that hold half of them, and so on; never one twice."""
    num_slots = 20_000
    pool = BlockPool(num_slots)
    assert pool.allocate(num_slots) == list(range(num_slots))
    for slot in (3, 5, 6, 900, 901, 902, 903, 904, 19_000, 19_001, 19_002):
        pool.free(slot)
    assert pool.allocate(3) == [900, 901, 902]
    assert pool.allocate(3, prefer=19_000) == [19_000, 19_001, 19_002]
    assert pool.allocate(5) == [3, 5, 6, 903, 904]
    assert pool.allocate(1) == []
    pool.check()


def test_may_be_empty() -> None:
    pool = BlockPool(0)
    assert pool.allocate(1) == []
    assert pool.allocate(0) == []
    pool.check()


def test_check_says_what_does_not_add_up() -> None:
    pool = BlockPool(4)
    pool.publish(pool.allocate(2)[0])
    pool.num_free += 1
    with pytest.raises(AssertionError, match="free 2, in flight 1, resident 1, capacity 4, counted as free 3"):
        pool.check()
