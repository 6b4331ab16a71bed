"""Adaptive replacement cache (Megiddo and Modha, FAST 2003)."""

from collections.abc import Collection, Sequence

from tiers.eviction.base import EvictionPolicy, K
from tiers.eviction.choose import append_all, can_spare
from tiers.eviction.key_queue import KeyQueue, put_back


class ARCPolicy(EvictionPolicy[K]):
    """Balances recency against frequency by what it regrets having evicted; one long scan does not flush it.

    The paper's T1 is ``_recent`` (used once), T2 ``_frequent``, B1 and B2 the ghosts of both, p ``recent_target``: how
    many slots the keys that were used once should have. A full tier has up to ``capacity`` ghosts besides its keys.

    The paper looks at the ghosts before it makes room (figure 4): a key that comes back moves the target for its own
    eviction. So it is here for keys that are announced. Where room is made for many at once, each counts as there for
    those after it, but makes no room for them. Of others the ghosts are seen only when they are inserted.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.recent_target = 0.0
        self._recent: KeyQueue[K, None] = KeyQueue()
        self._frequent: KeyQueue[K, None] = KeyQueue()
        self._recent_ghosts: KeyQueue[K, None] = KeyQueue()
        self._frequent_ghosts: KeyQueue[K, None] = KeyQueue()
        self._announced: Sequence[K] = ()
        self._recalled: set[K] = set()
        """Keys for which room was made and that were ghosts."""

    def insert(self, key: K, cost: float = 1.0) -> None:
        recent, frequent = self._recent, self._frequent
        if key in recent or key in frequent:
            raise KeyError(key)
        if key in self._recalled:
            self._recalled.remove(key)
            frequent[key] = None
        elif key in self._recent_ghosts or key in self._frequent_ghosts:
            self._recall(key)
            frequent[key] = None
        else:
            recent[key] = None
        self._forget_old_ghosts()

    def insert_all(self, keys: Collection[K], cost: float = 1.0) -> None:
        if self._recalled or self._ghosts_among(keys):
            super().insert_all(keys, cost)
        else:
            append_all(keys, self._recent, None, self._frequent)
            self._forget_old_ghosts()

    def touch(self, key: K) -> None:
        if key in self._frequent:
            self._frequent.remove(key)
        else:
            self._recent.remove(key)
        self._frequent[key] = None

    def remove(self, key: K) -> None:
        (self._recent if key in self._recent else self._frequent).remove(key)

    def announce(self, keys: Sequence[K]) -> None:
        """See EvictionPolicy."""
        self._announced = keys

    def evict(self, n: int, protected: Collection[K] = ()) -> list[K]:
        recent, frequent = self._recent, self._frequent
        if not 0 <= n <= len(recent) + len(frequent) - len(protected) and not can_spare(n, protected, recent, frequent):
            return []
        self._recalled.clear()
        if not self._announced:
            return self._replace(n, protected)
        coming, self._announced = self._announced, ()
        seated = coming[: max(0, len(coming) - n)]  # these have slots
        for place in self._ghosts_among(seated):
            self._expect(seated[place])
        newcomers = len(seated) - len(self._recalled)
        coming = coming[len(seated) :]
        victims: list[K] = []
        for place in self._ghosts_among(coming):
            strangers = place - len(victims)
            victims += self._replace(strangers, protected, newcomers, strangers)
            newcomers += strangers
            was_frequent = coming[place] in self._frequent_ghosts
            self._expect(coming[place])
            is_tie = was_frequent and len(recent) + newcomers == self.recent_target
            victims += self._replace(1, protected, newcomers + is_tie)
        return victims + self._replace(n - len(victims), protected, newcomers, len(coming) - len(victims))

    def __contains__(self, key: object) -> bool:
        return key in self._recent or key in self._frequent

    def __len__(self) -> int:
        return len(self._recent) + len(self._frequent)

    def _replace(self, n: int, protected: Collection[K], newcomers: int = 0, strangers: int = 0) -> list[K]:
        """Evict ``n`` keys; for the first of them as many keys come that are no ghosts. ``newcomers`` came before."""
        recent, frequent, target = self._recent, self._frequent, self.recent_target
        size = len(recent) + newcomers
        victims: list[K] = []
        passed_over: list[tuple[KeyQueue[K, None], K, None]] = []
        while n:
            if (size > target and recent) or not frequent:
                queue, ghosts = recent, self._recent_ghosts
            else:
                queue, ghosts = frequent, self._frequent_ghosts
            key = queue.pop_oldest()
            if protected and key in protected:
                passed_over.append((queue, key, None))
                continue
            ghosts[key] = None
            size -= queue is recent
            if strangers:
                strangers -= 1
                size += 1
            victims.append(key)
            n -= 1
        if passed_over:
            put_back(passed_over)
        return victims

    def _ghosts_among(self, keys: Collection[K]) -> list[int]:
        """The places of those that are."""
        recent, frequent = self._recent_ghosts, self._frequent_ghosts
        if recent.keys().isdisjoint(keys) and frequent.keys().isdisjoint(keys):
            return []
        return [place for place, key in enumerate(keys) if key in recent or key in frequent]

    def _expect(self, key: K) -> None:
        self._recalled.add(key)
        self._recall(key)

    def _recall(self, key: K) -> None:
        """A ghost is back: the target moves towards the list that should have kept it."""
        recent, frequent = self._recent_ghosts, self._frequent_ghosts
        if key in recent:
            self.recent_target = min(self.recent_target + max(1.0, len(frequent) / len(recent)), float(self.capacity))
            recent.remove(key)
        elif key in frequent:
            self.recent_target = max(self.recent_target - max(1.0, len(recent) / len(frequent)), 0.0)
            frequent.remove(key)

    def _forget_old_ghosts(self) -> None:
        """Hold T1 + B1 to the capacity and all four lists to twice of it."""
        ghosts = self._recent_ghosts
        surplus = len(self._recent) + len(ghosts) - self.capacity
        while surplus > 0 and ghosts:
            ghosts.pop_oldest()
            surplus -= 1
        ghosts = self._frequent_ghosts
        surplus += len(self._frequent) + len(ghosts) - self.capacity
        while surplus > 0 and ghosts:
            ghosts.pop_oldest()
            surplus -= 1
