"""Belady's rule for a batch whose requests are known before they run (BatchLLM, arXiv 2412.03594)."""

from collections import OrderedDict
from collections.abc import Collection, Iterable
from heapq import heapify, heappop, heappush
from typing import Protocol, runtime_checkable

from tiers.eviction.base import EvictionPolicy, K
from tiers.eviction.choose import can_spare, pick


@runtime_checkable
class SupportsPlan(Protocol):
    """A policy that may be told what will be used, in order and in full."""

    def plan(self, uses: Iterable[object]) -> None:
        """The keys of all uses to come, in their order, in place of what was planned before.

        Every ``insert`` or ``touch`` of a key is one of its uses.
        """
        ...


class BatchPlanPolicy(EvictionPolicy[K]):
    """Evicts the key whose next planned use is farthest away; before any of those what no plan names, LRU first.

    A batch of prompts shows in advance which prefixes are shared by which of them. With the whole future planned this
    is Belady's policy, the bound on what any other can hit; without a plan it is LRU.

    A heap holds the next uses of resident keys, the farthest at its top. Entries of uses that have been sink to its
    bottom, and are dropped in bulk.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._coming: dict[K, list[int]] = {}
        """The places of the uses to come of each key in the plan, the next one at the end."""
        self._next: dict[K, int] = {}
        """When each resident key that is planned is used next."""
        self._heap: list[tuple[int, K]] = []
        self._unplanned: OrderedDict[K, None] = OrderedDict()

    def plan(self, uses: Iterable[K]) -> None:
        """See SupportsPlan."""
        self._coming = {}
        for place, key in enumerate(uses):
            self._coming.setdefault(key, []).append(place)
        for places in self._coming.values():
            places.reverse()
        resident = [*self._unplanned, *self._next]
        self._heap, self._next, self._unplanned = [], {}, OrderedDict()
        for key in resident:
            self._expect(key)

    def insert(self, key: K, cost: float = 1.0) -> None:
        if key in self:
            raise KeyError(key)
        self._use(key)

    def insert_ahead(self, key: K, cost: float = 1.0) -> None:
        """See EvictionPolicy: none of the uses in the plan."""
        if key in self:
            raise KeyError(key)
        self._expect(key)

    def touch(self, key: K) -> None:
        if self._next.pop(key, None) is None:
            del self._unplanned[key]
        self._use(key)

    def remove(self, key: K) -> None:
        if self._next.pop(key, None) is None:
            del self._unplanned[key]

    def evict(self, n: int, protected: Collection[K] = ()) -> list[K]:
        if not can_spare(n, protected, self._unplanned, self._next):
            return []
        victims = pick(self._unplanned, n, protected)
        for key in victims:
            del self._unplanned[key]
        passed_over = []
        while len(victims) < n:
            entry = heappop(self._heap)
            place, key = -entry[0], entry[1]
            if self._next.get(key) != place:
                continue
            if key in protected:
                passed_over.append(entry)
                continue
            del self._next[key]
            victims.append(key)
        for entry in passed_over:
            heappush(self._heap, entry)
        return victims

    def __contains__(self, key: object) -> bool:
        return key in self._next or key in self._unplanned

    def __len__(self) -> int:
        return len(self._next) + len(self._unplanned)

    def _use(self, key: K) -> None:
        coming = self._coming.get(key)
        if coming:
            coming.pop()
        self._expect(key)

    def _expect(self, key: K) -> None:
        coming = self._coming.get(key)
        if not coming:
            self._unplanned[key] = None
            return
        place = self._next[key] = coming[-1]
        heappush(self._heap, (-place, key))
        if len(self._heap) > 2 * len(self._next) + 16:
            self._heap = [(-place, key) for key, place in self._next.items()]
            heapify(self._heap)
