"""2Q: a key has to come back after it left the first queue to enter the second (Johnson and Shasha, VLDB 1994)."""

from collections import OrderedDict
from collections.abc import Collection

from tiers.eviction.base import EvictionPolicy, K
from tiers.eviction.choose import can_spare, put_back


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
        if key in self._in or key in self._main:
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
        incoming, main, ghosts = self._in, self._main, self._ghosts
        if not 0 <= n <= len(incoming) + len(main) - len(protected) and not can_spare(n, protected, incoming, main):
            return []
        victims: list[K] = []
        passed_over: list[tuple[OrderedDict[K, None], K, None]] = []
        surplus = len(incoming) - self._in_slots
        while n:
            queue = incoming if (surplus > 0 and incoming) or not main else main
            key, _ = queue.popitem(last=False)
            if key in protected:
                passed_over.append((queue, key, None))
                continue
            if queue is incoming:
                surplus -= 1
                ghosts[key] = None
            victims.append(key)
            n -= 1
        while len(ghosts) > self._num_ghosts:
            ghosts.popitem(last=False)
        if passed_over:
            put_back(passed_over)
        return victims

    def __contains__(self, key: object) -> bool:
        return key in self._in or key in self._main

    def __len__(self) -> int:
        return len(self._in) + len(self._main)
