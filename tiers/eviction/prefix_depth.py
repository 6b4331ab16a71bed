"""Whole prefixes by recency, and of each its end first."""

from collections.abc import Callable, Collection

from tiers.eviction.base import EvictionPolicy, K
from tiers.eviction.choose import evict_first
from tiers.eviction.linked import Node, Ring


def depth_of(key: object) -> int:
    """How many blocks of its prefix come before a block; 0 for blocks of no prefix."""
    return getattr(key, "block", 0)


class PrefixDepthPolicy(EvictionPolicy[K]):
    """LRU of prefixes: the blocks of one prefix are used together, and its last block goes first.

    A block of a prefix is of use only where all blocks before it are there, and those are shared by more requests. LRU
    over blocks, which are used from the first to the last, takes the first one first and with it the use of the rest.

    Uses of ever deeper blocks, one after the other, are taken for uses of one prefix. Blocks of no prefix are each one
    of their own: then this is LRU.
    """

    def __init__(self, capacity: int, depth_of: Callable[[K], int] = depth_of) -> None:
        super().__init__(capacity)
        self._depth_of = depth_of
        self._nodes: dict[K, Node[K]] = {}
        self._ring: Ring[K] = Ring()
        self._before: Node[K] = self._ring
        """What was used last before the prefix that is being used: each deeper block of that goes right behind it."""
        self._depth = 0

    def insert(self, key: K, cost: float = 1.0) -> None:
        if key in self._nodes:
            raise KeyError(key)
        node = self._nodes[key] = Node(key)
        self._use(node)

    def touch(self, key: K) -> None:
        node = self._nodes[key]
        self._unlink(node)
        self._use(node)

    def remove(self, key: K) -> None:
        self._unlink(self._nodes.pop(key))

    def evict(self, n: int, protected: Collection[K] = ()) -> list[K]:
        return evict_first(self, self._ring, n, protected)

    def __contains__(self, key: object) -> bool:
        return key in self._nodes

    def __len__(self) -> int:
        return len(self._nodes)

    def _use(self, node: Node[K]) -> None:
        depth = self._depth_of(node.key)
        if depth <= self._depth:
            self._before = self._ring.prev
        self._depth = depth
        self._ring.insert_after(self._before, node)

    def _unlink(self, node: Node[K]) -> None:
        if node is self._before:
            self._before = node.prev
        node.unlink()
