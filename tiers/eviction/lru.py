"""Least recently used."""

from collections.abc import Collection

from tiers.eviction.base import EvictionPolicy, K
from tiers.eviction.choose import append_all, can_spare


class LRUPolicy(EvictionPolicy[K]):
    """Evicts the key that has not been used for the longest time.

    In two plain dicts, since an ordered one takes twice the memory and half again the time. A use puts a key at the end
    of the young. Victims come from the old, which nobody used since they were young, in the order in which they were
    then; ``_queue`` has that order, and keys that have left in the meantime. When the old are gone, the young are old.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._young: dict[K, None] = {}
        self._old: dict[K, None] = {}
        self._queue: list[K] = []
        """The next victim at the end."""

    def insert(self, key: K, cost: float = 1.0) -> None:
        if key in self._young or key in self._old:
            raise KeyError(key)
        self._young[key] = None

    def insert_all(self, keys: Collection[K], cost: float = 1.0) -> None:
        append_all(keys, self._young, None, self._old)

    def touch(self, key: K) -> None:
        young = self._young
        if key in young:
            del young[key]
        else:
            del self._old[key]
        young[key] = None

    def remove(self, key: K) -> None:
        if key in self._young:
            del self._young[key]
        else:
            del self._old[key]

    def evict(self, n: int, protected: Collection[K] = ()) -> list[K]:
        young, old, queue = self._young, self._old, self._queue
        if not 0 <= n <= len(young) + len(old) - len(protected) and not can_spare(n, protected, young, old):
            return []
        victims: list[K] = []
        passed_over: list[K] = []
        while n:
            if not queue:
                queue += reversed(young)
                old.update(young)
                young = self._young = {}
            key = queue.pop()
            if key not in old:
                continue
            if key in protected:
                passed_over.append(key)
                continue
            del old[key]
            victims.append(key)
            n -= 1
        if passed_over:
            queue += reversed(passed_over)
        return victims

    def __contains__(self, key: object) -> bool:
        return key in self._young or key in self._old

    def __len__(self) -> int:
        return len(self._young) + len(self._old)
