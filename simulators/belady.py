"""The fewest misses that any policy could have had on a recorded trace: evict what is used again last."""

import heapq
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from simulators.expert_visits import Pass
from tiers.block import ExpertKey

_NEVER = 1 << 60

K = TypeVar("K", bound=Hashable)


def belady_misses(passes: Sequence[Pass], slots: int) -> list[int]:
    """Misses in each pass for a cache of ``slots`` that fetches on demand and knows the future (Belady, 1966).

    What one visit needs is there together: until the visit is over none of it makes room for another of it, unless the
    visit alone needs more than all slots. Among sets that have to be there together, to evict what is used again last
    is still best.
    """
    uses = _next_uses([visit for one in passes for visit in one.visits])
    cache = _Cache[ExpertKey](slots)
    return [sum(cache.visit(visit, next(uses)) for visit in one.visits) for one in passes]


def belady_hit_ratio(passes: Sequence[Pass], slots: int, counted: Iterable[int] | None = None) -> float:
    """Share of the accesses of passes that such a cache finds; 1 where there are none.

    ``counted`` are the indices of the passes that count, all of them if not given. The others warm the cache.
    """
    misses = belady_misses(passes, slots)
    places = range(len(passes)) if counted is None else list(counted)
    accesses = sum(len(visit) for i in places for visit in passes[i].visits)
    return 1.0 - sum(misses[i] for i in places) / accesses if accesses else 1.0


def ideal_hit_ratio(keys: Sequence[K], slots: int) -> float:
    """Share of the accesses, one key at a time, that such a cache finds; 1 where there are none."""
    return sum(ideal_hits(keys, slots)) / len(keys) if keys else 1.0


def ideal_hits(keys: Sequence[K], slots: int) -> list[bool]:
    """Of every access, one key at a time, whether such a cache finds it."""
    visits = [(key,) for key in keys]
    cache = _Cache[K](slots)
    return [not cache.visit(visit, use) for visit, use in zip(visits, _next_uses(visits), strict=True)]


class _Cache(Generic[K]):
    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._resident: dict[K, int] = {}
        """When each key is used again: the number of that visit."""
        self._heap: list[tuple[int, int, K]] = []
        """Latest use first. A key that was used since has a newer entry; the number keeps keys from being compared."""
        self._number = 0

    def visit(self, keys: Sequence[K], uses: Sequence[int]) -> int:
        """Returns how many were missing; ``uses`` says when each is used again."""
        missing = sum(key not in self._resident for key in keys)
        if len(keys) > self._slots:
            self._resident.clear()
            soonest = sorted(range(len(keys)), key=uses.__getitem__)[: self._slots]
            keys, uses = [keys[i] for i in soonest], [uses[i] for i in soonest]
        self._resident.update(zip(keys, uses, strict=True))
        for key, use in zip(keys, uses, strict=True):
            self._number += 1
            heapq.heappush(self._heap, (-use, self._number, key))
        self._make_room(set(keys))
        return missing

    def _make_room(self, protected: set[K]) -> None:
        passed_over = []
        while len(self._resident) > self._slots:
            entry = heapq.heappop(self._heap)
            use, _, key = entry
            if self._resident.get(key) != -use:
                continue
            if key in protected:
                passed_over.append(entry)
            else:
                del self._resident[key]
        for entry in passed_over:
            heapq.heappush(self._heap, entry)


def _next_uses(visits: Sequence[Sequence[K]]) -> Iterator[list[int]]:
    """For every visit, when each of its keys is used again: the number of that visit."""
    later: dict[K, int] = {}
    uses: list[list[int]] = []
    for time in range(len(visits) - 1, -1, -1):
        uses.append([later.get(key, _NEVER) for key in visits[time]])
        later.update(dict.fromkeys(visits[time], time))
    return reversed(uses)
