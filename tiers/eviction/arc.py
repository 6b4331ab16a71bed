"""Adaptive replacement cache (Megiddo and Modha, FAST 2003)."""

from collections import OrderedDict
from collections.abc import Collection, Sequence
from itertools import groupby

from tiers.eviction.base import EvictionPolicy, K
from tiers.eviction.choose import append_all, pick, queues_can_spare


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
        self._recent: OrderedDict[K, None] = OrderedDict()
        self._frequent: OrderedDict[K, None] = OrderedDict()
        self._recent_ghosts: OrderedDict[K, None] = OrderedDict()
        self._frequent_ghosts: OrderedDict[K, None] = OrderedDict()
        self._announced: Sequence[K] = ()
        self._recalled: set[K] = set()
        """Keys for which room was made and that were ghosts."""

    def insert(self, key: K, cost: float = 1.0) -> None:
        if key in self:
            raise KeyError(key)
        is_known = key in self._recalled or self._recall(key) is not None
        self._recalled.discard(key)
        (self._frequent if is_known else self._recent)[key] = None
        self._forget_old_ghosts()

    def insert_all(self, keys: Collection[K], cost: float = 1.0) -> None:
        if self._recalled or self._ghosts_among(keys):
            super().insert_all(keys, cost)
        else:
            append_all(keys, self._recent, None, self._frequent)
            self._forget_old_ghosts()

    def touch(self, key: K) -> None:
        if key in self._frequent:
            self._frequent.move_to_end(key)
        else:
            del self._recent[key]
            self._frequent[key] = None

    def remove(self, key: K) -> None:
        del (self._recent if key in self._recent else self._frequent)[key]

    def announce(self, keys: Sequence[K]) -> None:
        """See EvictionPolicy."""
        self._announced = keys

    def evict(self, n: int, protected: Collection[K] = ()) -> list[K]:
        if not queues_can_spare((self._recent, self._frequent), n, protected):
            return []
        coming, self._announced, self._recalled = self._announced, (), set()
        seated = coming[: max(0, len(coming) - n)]  # these have slots
        for place in self._ghosts_among(seated):
            self._expect(seated[place])
        num_recent = len(seated) - len(self._recalled)
        coming = coming[len(seated) :]
        victims: list[K] = []
        for place in self._ghosts_among(coming):
            strangers = place - len(victims)
            victims += self._make_room(strangers, strangers, num_recent, protected)
            num_recent += strangers
            ghosts = self._expect(coming[place])
            size = len(self._recent) + num_recent
            is_tie = ghosts is self._frequent_ghosts and size == self.recent_target
            victims += self._take(1, protected, is_recent=is_tie or size > self.recent_target)
        strangers = len(coming) - len(victims)
        return victims + self._make_room(n - len(victims), strangers, num_recent, protected)

    def __contains__(self, key: object) -> bool:
        return key in self._recent or key in self._frequent

    def __len__(self) -> int:
        return len(self._recent) + len(self._frequent)

    def _make_room(self, n: int, strangers: int, num_recent: int, protected: Collection[K]) -> list[K]:
        """Evict ``n`` keys; for the first of them as many keys come that are no ghosts. ``num_recent`` came before."""
        size = len(self._recent) + num_recent
        choices = []
        for place in range(n):
            is_recent = size > self.recent_target
            size += (place < strangers) - is_recent
            choices.append(is_recent)
        victims: list[K] = []
        for is_recent, alike in groupby(choices):
            victims += self._take(sum(1 for _ in alike), protected, is_recent=is_recent)
        return victims

    def _take(self, n: int, protected: Collection[K], *, is_recent: bool) -> list[K]:
        """Evict ``n`` keys of those used once, or of the others; where there are too few, of the others."""
        sides = [(self._recent, self._recent_ghosts), (self._frequent, self._frequent_ghosts)]
        victims: list[K] = []
        for queue, ghosts in sides if is_recent else reversed(sides):
            chosen = pick(queue, n - len(victims), protected) if n > len(victims) else []
            for key in chosen:
                del queue[key]
                ghosts[key] = None
            victims += chosen
        return victims

    def _ghosts_among(self, keys: Collection[K]) -> list[int]:
        """The places of those that are."""
        recent, frequent = self._recent_ghosts, self._frequent_ghosts
        if recent.keys().isdisjoint(keys) and frequent.keys().isdisjoint(keys):
            return []
        return [place for place, key in enumerate(keys) if key in recent or key in frequent]

    def _expect(self, key: K) -> OrderedDict[K, None] | None:
        self._recalled.add(key)
        return self._recall(key)

    def _recall(self, key: K) -> OrderedDict[K, None] | None:
        """The ghosts of which ``key`` was one. If so the target moves towards the list that should have kept it."""
        num_recent, num_frequent = len(self._recent_ghosts), len(self._frequent_ghosts)
        if key in self._recent_ghosts:
            del self._recent_ghosts[key]
            self.recent_target = min(self.recent_target + max(1.0, num_frequent / num_recent), float(self.capacity))
            return self._recent_ghosts
        if key in self._frequent_ghosts:
            del self._frequent_ghosts[key]
            self.recent_target = max(self.recent_target - max(1.0, num_recent / num_frequent), 0.0)
            return self._frequent_ghosts
        return None

    def _forget_old_ghosts(self) -> None:
        """Hold T1 + B1 to the capacity and all four lists to twice of it."""
        while self._recent_ghosts and len(self._recent) + len(self._recent_ghosts) > self.capacity:
            self._recent_ghosts.popitem(last=False)
        surplus = len(self) + len(self._recent_ghosts) + len(self._frequent_ghosts) - 2 * self.capacity
        while self._frequent_ghosts and surplus > 0:
            self._frequent_ghosts.popitem(last=False)
            surplus -= 1
