"""How often keys were used lately, in a few bytes for each: too often where chance has it, seldom too rarely."""

from typing import Generic

from tiers.eviction.base import K

_MOST = 15
"""Of one counter: four bits, as in the paper."""
_PERIOD = 10
"""Uses for each slot of the cache between two halvings."""
_WIDTH = 8
"""Counters for each slot, at least."""
_HALVED = bytes(count // 2 for count in range(256))
_MIX = 0x9E3779B97F4A7C15
"""Odd, so that neighbouring hashes are spread over all 64 bits."""
_ALL = (1 << 64) - 1


class FrequencySketch(Generic[K]):
    """A count-min sketch with conservative update that halves all counts from time to time (TinyLFU's).

    Four counters for each key, found by its hash: for keys that hold texts, whose hash differs from process to process,
    so do the collisions.
    """

    def __init__(self, capacity: int) -> None:
        self._table = bytearray(1 << (_WIDTH * capacity - 1).bit_length())
        self._period = _PERIOD * capacity
        self._until_halving = self._period

    def add(self, key: K) -> None:
        """Count one use."""
        table = self._table
        places = self._places(key)
        first, second, third, fourth = places
        least = min(table[first], table[second], table[third], table[fourth])
        if least < _MOST:
            for place in places:
                if table[place] == least:
                    table[place] = least + 1
        self._until_halving -= 1
        if not self._until_halving:
            self._until_halving = self._period
            self._table = table.translate(_HALVED)

    def count(self, key: K) -> int:
        """Uses since long ago count for less; at most 15."""
        table = self._table
        first, second, third, fourth = self._places(key)
        return min(table[first], table[second], table[third], table[fourth])

    def forget(self, key: K) -> None:
        """As if the key had not been used; one that shares its counters may lose some of its uses."""
        table = self._table
        places = set(self._places(key))
        count = min(table[place] for place in places)
        for place in places:
            table[place] -= count

    def _places(self, key: K) -> tuple[int, int, int, int]:
        mask = len(self._table) - 1
        mixed = hash(key) * _MIX & _ALL
        start, step = mixed >> 32, mixed & 0xFFFFFFFF | 1
        return start & mask, start + step & mask, start + 2 * step & mask, start + 3 * step & mask
