"""Fixed-size slots of one tier: who is free, in flight or resident, and who is pinned."""

import re
from collections.abc import Collection, Sequence

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
        self._taken = bytearray(num_slots)
        self._loose: set[int] = set()
        """Free slots that are still marked as taken. In a full pool slots are freed for those who come at once, and
        these get them from here."""
        self._in_flight: set[int] = set()
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
        takes the next gap that holds them, else the next ones that hold half of them, and so on. In ascending order.
        """
        if n > self.num_free or n == 0:
            return []
        if n == self.num_free == len(self._loose):
            slots = sorted(self._loose)
            self._loose.clear()
        else:
            self._mark_gaps()
            slots = self._find(n, prefer)
            for slot in slots:
                self._taken[slot] = True
        self._in_flight.update(slots)
        self.num_free -= n
        self.peak_used = max(self.peak_used, self.num_slots - self.num_free)
        return slots

    def publish(self, slot: int) -> None:
        """The bytes of an allocated slot are complete."""
        assert slot in self._in_flight, "only a slot in flight becomes resident"
        self._in_flight.remove(slot)

    def publish_all(self, slots: Collection[int]) -> None:
        """As ``publish``, of many, none of them twice."""
        in_flight = self._in_flight
        num_left = len(in_flight) - len(slots)
        in_flight.difference_update(slots)
        assert len(in_flight) == num_left, "only a slot in flight becomes resident"

    def reopen(self, slot: int) -> None:
        """The bytes of a resident slot are about to change."""
        assert self.is_resident(slot), "only a resident slot is reopened"
        self._in_flight.add(slot)

    def free(self, slot: int) -> None:
        """Give a slot back; it must not be pinned."""
        assert not self._is_free(slot), "slot freed twice"
        assert slot not in self._pins, "a pinned slot cannot be freed"
        self._loose.add(slot)
        self._in_flight.discard(slot)
        self.num_free += 1

    def free_all(self, slots: Sequence[int]) -> None:
        """As ``free``, of many, none of them twice."""
        loose, num_free = self._loose, self.num_free + len(slots)
        num_marked = self.num_free - len(loose)  # none in a full pool
        assert not num_marked or all(map(self._taken.__getitem__, slots)), "slot freed twice"
        assert not self._pins or self._pins.keys().isdisjoint(slots), "a pinned slot cannot be freed"
        loose.update(slots)
        assert num_marked + len(loose) == num_free, "slot freed twice"
        self._in_flight.difference_update(slots)
        self.num_free = num_free

    def pin(self, slot: int) -> None:
        """One more reader of a slot, or a transfer that fills it."""
        assert not self._is_free(slot), "a free slot cannot be pinned"
        self._pins[slot] = self._pins.get(slot, 0) + 1

    def unpin(self, slot: int) -> None:
        pins = self._pins.pop(slot, 0)
        assert pins > 0, "slot unpinned more often than pinned"
        if pins > 1:
            self._pins[slot] = pins - 1

    def is_pinned(self, slot: int) -> bool:
        return slot in self._pins

    def is_resident(self, slot: int) -> bool:
        return not self._is_free(slot) and slot not in self._in_flight

    def check(self) -> None:
        """Raise AssertionError, with the numbers, if the pool's books do not add up."""
        free, in_flight = sum(map(self._is_free, range(self.num_slots))), len(self._in_flight)
        resident = sum(map(self.is_resident, range(self.num_slots)))
        numbers = f"free {free}, in flight {in_flight}, resident {resident}, capacity {self.num_slots}"
        assert free + in_flight + resident == self.num_slots, numbers
        assert free == self.num_free, f"{numbers}, counted as free {self.num_free}"
        assert all(map(self._taken.__getitem__, self._loose)), "a loose slot lies in a gap"
        assert not any(map(self._is_free, self._pins)), "a free slot is pinned"

    def _is_free(self, slot: int) -> bool:
        return slot in self._loose or not self._taken[slot]

    def _mark_gaps(self) -> None:
        for slot in self._loose:
            self._taken[slot] = False
        self._loose.clear()

    def _find(self, n: int, prefer: int | None) -> list[int]:
        if prefer is not None and self._taken[prefer : prefer + n] == bytes(n):
            return list(range(prefer, prefer + n))
        if self.num_slots > _MOST_TO_LOOK_AT and n < self.num_free:
            return self._find_first(n)
        gaps = self._gaps()
        best = min((gap for gap in gaps if len(gap) >= n), key=len, default=None)
        if best is not None:
            return list(best[:n])
        slots: list[int] = []
        for gap in sorted(gaps, key=len, reverse=True):
            slots += gap[: n - len(slots)]
        return sorted(slots)

    def _gaps(self) -> list[range]:
        """All of them. What lies before the first one and in the last one need not be looked at byte by byte."""
        taken = self._taken
        first, last = taken.find(False), taken.rfind(True) + 1
        gaps = [range(*match.span()) for match in _GAPS.finditer(taken, first, last)] if 0 <= first < last else []
        return [*gaps, range(last, self.num_slots)] if last < self.num_slots else gaps

    def _find_first(self, n: int) -> list[int]:
        slots: list[int] = []
        size, start = n, self._next
        while len(slots) < n:
            found = self._taken.find(bytes(size), start)
            if found < 0:
                size, start = (size, 0) if start else (max(1, size // 2), 0)
                continue
            start = found
            end = start + min(size, n - len(slots))
            self._taken[start:end] = b"\x01" * (end - start)  # not to be found again
            slots += range(start, end)
            start = self._next = end
        return sorted(slots)
