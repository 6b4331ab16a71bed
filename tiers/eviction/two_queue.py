"""2Q: a key has to come back after it left the first queue to enter the second (Johnson and Shasha, VLDB 1994)."""

from collections.abc import Collection

from tiers.eviction.base import EvictionPolicy, K
from tiers.eviction.choose import can_spare
from tiers.eviction.key_queue import KeyQueue, put_back


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
        self._in: KeyQueue[K, None] = KeyQueue()
        self._main: KeyQueue[K, None] = KeyQueue()
        self._ghosts: KeyQueue[K, None] = KeyQueue()

    def insert(self, key: K, cost: float = 1.0) -> None:
        if key in self._in or key in self._main:
            raise KeyError(key)
        if key in self._ghosts:
            self._ghosts.remove(key)
            self._main[key] = None
        else:
            self._in[key] = None

    def touch(self, key: K) -> None:
        if key in self._main:
            self._main.remove(key)
            self._main[key] = None
        elif key not in self._in:
            raise KeyError(key)

    def remove(self, key: K) -> None:
        (self._in if key in self._in else self._main).remove(key)

    def evict(self, n: int, protected: Collection[K] = ()) -> list[K]:
        incoming, main, ghosts = self._in, self._main, self._ghosts
        if not 0 <= n <= len(incoming) + len(main) - len(protected) and not can_spare(n, protected, incoming, main):
            return []
        victims: list[K] = []
        passed_over: list[tuple[KeyQueue[K, None], K, None]] = []
        surplus = len(incoming) - self._in_slots
        while n:
            queue = incoming if (surplus > 0 and incoming) or not main else main
            key = queue.pop_oldest()
            if key in protected:
                passed_over.append((queue, key, None))
                continue
            if queue is incoming:
                surplus -= 1
                ghosts[key] = None
            victims.append(key)
            n -= 1
        ghosts.drop_oldest(len(ghosts) - self._num_ghosts)
        if passed_over:
            put_back(passed_over)
        return victims

    def __contains__(self, key: object) -> bool:
        return key in self._in or key in self._main

    def __len__(self) -> int:
        return len(self._in) + len(self._main)
