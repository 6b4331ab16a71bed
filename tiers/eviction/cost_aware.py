"""Cost-aware eviction: GreedyDual-Size-Frequency (Cherkasova, HP Labs 1998), where every block has the same size."""

import math
from collections.abc import Collection
from heapq import heapify, heappop, heappush, heapreplace
from typing import Generic

from tiers.eviction.base import EvictionPolicy, K
from tiers.eviction.choose import can_spare


class _Record(Generic[K]):
    """What is known of one stay of a key: ``uses`` is 0 once it left, ``clock`` and ``tick`` are of its last use."""

    __slots__ = ("clock", "cost", "key", "tick", "uses")

    def __init__(self, key: K, cost: float, clock: float, tick: int) -> None:
        self.key = key
        self.cost = cost
        self.uses = 1
        self.clock = clock
        self.tick = tick

    def entry(self) -> "tuple[float, int, _Record[K]]":
        """What the heap sorts: the priority, then the last use. Ticks are unique, so records are never compared."""
        return self.clock + self.uses * self.cost, self.tick, self


class CostAwarePolicy(EvictionPolicy[K]):
    """Evicts the key of the lowest ``clock + uses * cost``, the oldest last use among equals.

    The clock is what the key had at its last use; it then rises to the priority of whatever is evicted, so that a key
    that was precious long ago does not stay for ever. With equal costs this is LFU that ages. O(log len) per eviction.

    Only ``evict`` orders the heap. A use can only raise a priority, so an entry made before it is a lower bound: it
    comes up too early, is seen to be old by its tick, and is put back where it belongs.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._records: dict[K, _Record[K]] = {}
        self._heap: list[tuple[float, int, _Record[K]]] = []
        self._clock = 0.0
        self._tick = 0

    def insert(self, key: K, cost: float = 1.0) -> None:
        """See EvictionPolicy; ValueError if the cost is negative or not finite, since it would spoil the order."""
        if key in self._records:
            raise KeyError(key)
        if not 0.0 <= cost < math.inf:
            raise ValueError(f"the cost of {key} is {cost}; it must be finite and at least 0")
        self._tick += 1
        record = self._records[key] = _Record(key, cost, self._clock, self._tick)
        heappush(self._heap, record.entry())

    def touch(self, key: K) -> None:
        record = self._records[key]
        self._tick = tick = self._tick + 1
        record.uses += 1
        record.clock = self._clock
        record.tick = tick

    def remove(self, key: K) -> None:
        self._records.pop(key).uses = 0
        # The entry stays behind in the heap. To rebuild at every eighth one bounds the memory and is still O(1) each.
        if len(self._heap) * 7 > len(self._records) * 8:
            self._heap = [record.entry() for record in self._records.values()]
            heapify(self._heap)

    def evict(self, n: int, protected: Collection[K] = ()) -> list[K]:
        if not can_spare(n, protected, self._records):
            return []
        heap = self._heap
        victims: list[K] = []
        passed_over: list[tuple[float, int, _Record[K]]] = []
        while len(victims) < n:
            entry = self._pop_lowest()
            priority, _, record = entry
            if record.key in protected:
                passed_over.append(entry)
                continue
            del self._records[record.key]
            # Not simply the priority: a key that was protected for long may lie below the clock by now.
            self._clock = max(self._clock, priority)
            victims.append(record.key)
        for entry in passed_over:
            heappush(heap, entry)
        return victims

    def __contains__(self, key: object) -> bool:
        return key in self._records

    def __len__(self) -> int:
        return len(self._records)

    def _pop_lowest(self) -> tuple[float, int, _Record[K]]:
        """Take the entry of the resident key with the lowest priority out of the heap, which must hold one."""
        heap = self._heap
        while True:
            entry = heap[0]
            _, tick, record = entry
            if record.uses == 0:
                heappop(heap)
            elif tick != record.tick:
                heapreplace(heap, record.entry())
            else:
                return heappop(heap)
