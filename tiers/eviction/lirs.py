"""LIRS: keys by the distance between their last two uses (Jiang and Zhang, SIGMETRICS 2002)."""

from collections import OrderedDict
from collections.abc import Collection, Iterator
from enum import IntEnum

from tiers.eviction.base import EvictionPolicy, K
from tiers.eviction.choose import pick


class _Kind(IntEnum):
    LOW = 0
    """Used again soon after its last use (the paper's LIR): resident."""
    HIGH = 1
    """Not so (resident HIR): one of those that leave."""
    GHOST = 2
    """Left, while others that were used before it are still there (non-resident HIR)."""


_LOW, _HIGH, _GHOST = _Kind
"""Looked up once, since that of a member takes as long as that of a key."""


class LIRSPolicy(EvictionPolicy[K]):
    """Keeps the keys whose last two uses lay closest together; recency alone counts for a hundredth of the slots.

    ``_stack`` (S) holds the keys by last use down to the oldest one of low distance. A key that is used while it is in
    there was used twice within the span of the stack: it becomes one of low distance, and the oldest of these one that
    may leave. ``_leaving`` (Q) holds the resident keys of high distance in the order in which they go.

    The paper does not bound the ghosts. Here there are at most half as many as slots; the oldest is forgotten first.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._low_slots = capacity - max(1, capacity // 100)
        self._num_low = 0
        self._stack: OrderedDict[K, _Kind] = OrderedDict()
        self._leaving: OrderedDict[K, None] = OrderedDict()
        self._ghosts: OrderedDict[K, None] = OrderedDict()

    def insert(self, key: K, cost: float = 1.0) -> None:
        if key in self._leaving or self._stack.get(key) is _LOW:
            raise KeyError(key)
        is_known = key in self._ghosts
        if is_known:
            del self._ghosts[key], self._stack[key]
        if is_known or self._num_low < self._low_slots:
            self._promote(key)
        else:
            self._stack[key] = _HIGH
            self._leaving[key] = None

    def touch(self, key: K) -> None:
        if key not in self._leaving:
            if self._stack.get(key) is not _LOW:
                raise KeyError(key)
            self._stack.move_to_end(key)
            self._prune()
        elif key in self._stack:
            del self._leaving[key], self._stack[key]
            self._promote(key)
        else:
            self._stack[key] = _HIGH
            self._leaving.move_to_end(key)

    def remove(self, key: K) -> None:
        if key in self._leaving:
            del self._leaving[key]
            self._stack.pop(key, None)
        elif self._stack.get(key) is _LOW:
            self._drop_low(key)
        else:
            raise KeyError(key)

    def evict(self, n: int, protected: Collection[K] = ()) -> list[K]:
        victims = pick(self._leaving, n, protected)
        low = pick(self._low(), n - len(victims), protected) if len(victims) < n else []
        if len(victims) + len(low) < n:
            return []
        for key in victims:
            self._let_go(key)
        for key in low:
            self._drop_low(key)
        return victims + low

    def __contains__(self, key: object) -> bool:
        return key in self._leaving or self._stack.get(key) is _LOW  # type: ignore[arg-type]  # the seam says object

    def __len__(self) -> int:
        return self._num_low + len(self._leaving)

    def _low(self) -> Iterator[K]:
        return (key for key, kind in self._stack.items() if kind is _LOW)

    def _promote(self, key: K) -> None:
        """Make a key that is not in the stack one of low distance; the oldest of these may have to make room."""
        self._stack[key] = _LOW
        self._num_low += 1
        self._prune()
        if self._num_low > self._low_slots:
            oldest, _ = self._stack.popitem(last=False)
            self._num_low -= 1
            self._leaving[oldest] = None
            self._prune()

    def _let_go(self, key: K) -> None:
        del self._leaving[key]
        if key not in self._stack:
            return
        self._stack[key] = _GHOST
        self._ghosts[key] = None
        if len(self._ghosts) > self.capacity // 2:
            oldest, _ = self._ghosts.popitem(last=False)
            del self._stack[oldest]

    def _drop_low(self, key: K) -> None:
        del self._stack[key]
        self._num_low -= 1
        self._prune()

    def _prune(self) -> None:
        """Cut the stack below the oldest key of low distance."""
        stack = self._stack
        while stack:
            oldest = next(iter(stack))
            kind = stack[oldest]
            if kind is _LOW:
                return
            del stack[oldest]
            if kind is _GHOST:
                del self._ghosts[oldest]
