"""2Q: a key has to come back after it left the first queue to enter the second (Johnson and Shasha, VLDB 1994)."""

from collections import OrderedDict
from collections.abc import Collection
from itertools import chain, filterfalse

from tiers.eviction.base import EvictionPolicy, K
from tiers.eviction.choose import queues_can_spare


class TwoQueuePolicy(EvictionPolicy[K]):
    """The full version of the paper, with the sizes that it recommends.

    New keys pass a queue (A1in, a quarter of the slots) in which uses do not count, since the first few come close
    together whatever the key. Those that left it are remembered (A1out, half as many as there are slots); one that
    comes back goes to the main queue (Am), which is LRU.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._in_slots = max(1, capacity // 4)
        self._num_ghosts = max(1, capacity // 2)
        self._in: OrderedDict[K, None] = OrderedDict()
        self._main: OrderedDict[K, None] = OrderedDict()
        self._ghosts: OrderedDict[K, None] = OrderedDict()

    def insert(self, key: K, cost: float = 1.0) -> None:
        if key in self:
            raise KeyError(key)
        if key in self._ghosts:
            del self._ghosts[key]
            self._main[key] = None
        else:
            self._in[key] = None

    def touch(self, key: K) -> None:
        if key in self._main:
            self._main.move_to_end(key)
        elif key not in self._in:
            raise KeyError(key)

    def remove(self, key: K) -> None:
        del (self._in if key in self._in else self._main)[key]

    def evict(self, n: int, protected: Collection[K] = ()) -> list[K]:
        if not queues_can_spare((self._in, self._main), n, protected):
            return []
        from_in = filterfalse(protected.__contains__, self._in)
        from_main = filterfalse(protected.__contains__, self._main)
        # Chosen first and taken out then: an ordered dict must not change while one walks over it.
        victims: dict[K, None] = {}
        num_in = len(self._in)
        while len(victims) < n:
            first, then = (from_in, from_main) if num_in > self._in_slots else (from_main, from_in)
            key = next(chain(first, then))
            victims[key] = None
            num_in -= key in self._in
        for key in victims:
            self._drop(key)
        return list(victims)

    def __contains__(self, key: object) -> bool:
        return key in self._in or key in self._main

    def __len__(self) -> int:
        return len(self._in) + len(self._main)

    def _drop(self, key: K) -> None:
        if key in self._main:
            del self._main[key]
            return
        del self._in[key]
        self._ghosts[key] = None
        if len(self._ghosts) > self._num_ghosts:
            self._ghosts.popitem(last=False)
