"""Adaptive replacement cache (Megiddo and Modha, FAST 2003)."""

from collections import OrderedDict
from collections.abc import Collection, Sequence
from itertools import islice

from tiers.eviction.base import EvictionPolicy, K
from tiers.eviction.choose import can_spare
from tiers.eviction.linked import Node, OldestFirst, Ring


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
        self._nodes: dict[K, Node[K]] = {}
        self._recent: Ring[K] = Ring()
        self._frequent: Ring[K] = Ring()
        self._recent_ghosts: OrderedDict[K, None] = OrderedDict()
        self._frequent_ghosts: OrderedDict[K, None] = OrderedDict()
        self._announced: Sequence[K] = ()
        self._recalled: dict[K, bool] = {}
        """Keys for which room was made, and whether each was a ghost."""

    def insert(self, key: K, cost: float = 1.0) -> None:
        if key in self._nodes:
            raise KeyError(key)
        is_known = self._recalled.pop(key, None)
        if is_known is None:
            is_known = self._recall(key) is not None
        ring = self._frequent if is_known else self._recent
        node = self._nodes[key] = Node(key)
        ring.append(node)
        self._forget_old_ghosts()

    def touch(self, key: K) -> None:
        node = self._nodes[key]
        node.unlink()
        self._frequent.append(node)

    def remove(self, key: K) -> None:
        self._nodes.pop(key).unlink()

    def announce(self, keys: Sequence[K]) -> None:
        """See EvictionPolicy."""
        self._announced = keys

    def evict(self, n: int, protected: Collection[K] = ()) -> list[K]:
        if not can_spare(self._nodes, n, protected):
            return []
        coming, self._announced, self._recalled = self._announced, (), {}
        num_recent = 0
        for key in coming[: max(0, len(coming) - n)]:  # these have slots
            num_recent += self._expect(key) is None
        without = iter(coming[max(0, len(coming) - n) :])
        victims: list[K] = []
        recent = OldestFirst(self._recent, protected)
        frequent = OldestFirst(self._frequent, protected)
        while len(victims) < n:
            size = self._recent.size + num_recent
            ghosts = None
            for key in islice(without, 1):
                ghosts = self._expect(key)
                num_recent += ghosts is None
            is_tie = ghosts is self._frequent_ghosts and size == self.recent_target
            first, then = (recent, frequent) if size > self.recent_target or is_tie else (frequent, recent)
            node = first.peek() or then.peek()
            assert node is not None
            self._make_ghost(node)
            victims.append(node.key)
        return victims

    def _expect(self, key: K) -> OrderedDict[K, None] | None:
        ghosts = self._recall(key)
        self._recalled[key] = ghosts is not None
        return ghosts

    def __contains__(self, key: object) -> bool:
        return key in self._nodes

    def __len__(self) -> int:
        return len(self._nodes)

    def _make_ghost(self, node: Node[K]) -> None:
        ghosts = self._recent_ghosts if node.ring is self._recent else self._frequent_ghosts
        node.unlink()
        del self._nodes[node.key]
        ghosts[node.key] = None

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
        while self._recent_ghosts and self._recent.size + len(self._recent_ghosts) > self.capacity:
            self._recent_ghosts.popitem(last=False)
        surplus = len(self._nodes) + len(self._recent_ghosts) + len(self._frequent_ghosts) - 2 * self.capacity
        while self._frequent_ghosts and surplus > 0:
            self._frequent_ghosts.popitem(last=False)
            surplus -= 1
