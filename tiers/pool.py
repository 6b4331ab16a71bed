"""Fixed-size slots of one tier: who is free, in flight or resident, and who is pinned."""

import re
from collections.abc import Collection, Sequence

_FREE, _IN_FLIGHT, _RESIDENT = 0, 1, 2
_GAPS = re.compile(b"\\x00+")
_MOST_TO_LOOK_AT = 16384
"""Slots. In a larger pool to look at every one of them takes longer than a better place saves: some 1 ns each."""


class BlockPool:
    """Hands out the slots ``0 .. num_slots - 1``.

    A slot is *in flight* between ``allocate`` and ``publish`` (its bytes are not to be read yet), then *resident* until
    ``free``. Pins count readers: a pinned slot cannot be freed. ``check`` asserts that free, in flight and resident
    slots add up to the capacity.
    """

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.num_free = num_slots
        self.peak_used = 0
        # One byte a slot, so that a regular expression finds the gaps.
        self._states = bytearray(num_slots)
        self._pins: dict[int, int] = {}
        """Of the slots that are pinned."""
        self._next = 0
        """Where a large pool looks first: behind what it handed out last."""

    @property
    def num_used(self) -> int:
        return self.num_slots - self.num_free

    def allocate(self, n: int, prefer: int | None = None) -> list[int]:
        """Take ``n`` free slots, all or nothing: an empty list when fewer are free.

        From slot ``prefer`` on if those are free; else neighbours out of the smallest gap that holds them, else the
        largest gaps: attention reads neighbours as one tensor and the disk reads them as one request. A large pool
        takes the next gap that holds them, else the next ones that hold half of them, and so on.
        """
        if n > self.num_free or n == 0:
            return []
        slots = self._find(n, prefer)
        for slot in slots:
            self._states[slot] = _IN_FLIGHT
        self.num_free -= n
        self.peak_used = max(self.peak_used, self.num_used)
        return slots

    def publish(self, slot: int) -> None:
        """The bytes of an allocated slot are complete."""
        assert self._states[slot] == _IN_FLIGHT, "only a slot in flight becomes resident"
        self._states[slot] = _RESIDENT

    def publish_all(self, slots: Collection[int]) -> None:
        """As ``publish``, of many, none of them twice."""
        states = self._states
        assert set(map(states.__getitem__, slots)) <= {_IN_FLIGHT}, "only a slot in flight becomes resident"
        for slot in slots:
            states[slot] = _RESIDENT

    def reopen(self, slot: int) -> None:
        """The bytes of a resident slot are about to change."""
        assert self._states[slot] == _RESIDENT, "only a resident slot is reopened"
        self._states[slot] = _IN_FLIGHT

    def free(self, slot: int) -> None:
        """Give a slot back; it must not be pinned."""
        assert self._states[slot] != _FREE, "slot freed twice"
        assert slot not in self._pins, "a pinned slot cannot be freed"
        self._states[slot] = _FREE
        self.num_free += 1

    def free_all(self, slots: Sequence[int]) -> None:
        """As ``free``, of many, none of them twice."""
        states = self._states
        assert all(map(states.__getitem__, slots)), "slot freed twice"
        assert not self._pins or self._pins.keys().isdisjoint(slots), "a pinned slot cannot be freed"
        for slot in slots:
            states[slot] = _FREE
        self.num_free += len(slots)

    def pin(self, slot: int) -> None:
        """One more reader of a slot, or a transfer that fills it."""
        assert self._states[slot] != _FREE, "a free slot cannot be pinned"
        self._pins[slot] = self._pins.get(slot, 0) + 1

    def unpin(self, slot: int) -> None:
        pins = self._pins.pop(slot, 0)
        assert pins > 0, "slot unpinned more often than pinned"
        if pins > 1:
            self._pins[slot] = pins - 1

    def is_pinned(self, slot: int) -> bool:
        return slot in self._pins

    def is_resident(self, slot: int) -> bool:
        return self._states[slot] == _RESIDENT

    def check(self) -> None:
        """Raise AssertionError, with the numbers, if the pool's books do not add up."""
        free, in_flight, resident = (self._states.count(state) for state in (_FREE, _IN_FLIGHT, _RESIDENT))
        numbers = f"free {free}, in flight {in_flight}, resident {resident}, capacity {self.num_slots}"
        assert free + in_flight + resident == self.num_slots, numbers
        assert free == self.num_free, f"{numbers}, counted as free {self.num_free}"
        assert all(map(self._states.__getitem__, self._pins)), "a free slot is pinned"

    def _find(self, n: int, prefer: int | None) -> list[int]:
        if prefer is not None and self._states[prefer : prefer + n] == bytes(n):
            return list(range(prefer, prefer + n))
        if n == self.num_free:  # as whenever others had to leave for these
            find, slot = self._states.find, -1
            return [slot := find(_FREE, slot + 1) for _ in range(n)]
        if self.num_slots > _MOST_TO_LOOK_AT:
            return self._find_first(n)
        gaps = [range(*match.span()) for match in _GAPS.finditer(self._states)]
        best = min((gap for gap in gaps if len(gap) >= n), key=len, default=None)
        if best is not None:
            return list(best[:n])
        slots: list[int] = []
        for gap in sorted(gaps, key=len, reverse=True):
            slots += gap[: n - len(slots)]
        return sorted(slots)

    def _find_first(self, n: int) -> list[int]:
        slots: list[int] = []
        size, start = n, self._next
        while len(slots) < n:
            found = self._states.find(bytes(size), start)
            if found < 0:
                size, start = (size, 0) if start else (max(1, size // 2), 0)
                continue
            start = found
            end = start + min(size, n - len(slots))
            self._states[start:end] = bytes([_IN_FLIGHT]) * (end - start)  # not to be found again
            slots += range(start, end)
            start = self._next = end
        return sorted(slots)
