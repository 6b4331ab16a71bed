"""Least frequently used."""

from collections.abc import Collection

from tiers.eviction.base import EvictionPolicy, K
from tiers.eviction.choose import evict_first
from tiers.eviction.linked import Node, Ring


class LFUPolicy(EvictionPolicy[K]):
    """Evicts the key with the fewest uses since it became resident (insert is the first), among equals the LRU one.

    One ring holds all keys, sorted by uses and then by last use; ``_youngest`` names, for each number of uses that
    occurs, the last key of its stretch. A use moves a key to the end of the next stretch: every operation is O(1).
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._nodes: dict[K, Node[K]] = {}
        self._ring: Ring[K] = Ring()
        self._youngest: dict[int, Node[K]] = {}

    def insert(self, key: K, cost: float = 1.0) -> None:
        if key in self._nodes:
            raise KeyError(key)
        node = self._nodes[key] = Node(key, uses=1)
        self._ring.insert_after(self._youngest.get(1, self._ring), node)
        self._youngest[1] = node

    def touch(self, key: K) -> None:
        node = self._nodes[key]
        uses = node.uses
        youngest = self._youngest
        anchor = youngest.get(uses + 1) or youngest[uses]
        self._leave_stretch(node)
        if anchor is not node:
            node.unlink()
            self._ring.insert_after(anchor, node)
        node.uses = uses + 1
        youngest[uses + 1] = node

    def remove(self, key: K) -> None:
        node = self._nodes.pop(key)
        self._leave_stretch(node)
        node.unlink()

    def evict(self, n: int, protected: Collection[K] = ()) -> list[K]:
        return evict_first(self, self._ring, n, protected)

    def __contains__(self, key: object) -> bool:
        return key in self._nodes

    def __len__(self) -> int:
        return len(self._nodes)

    def _leave_stretch(self, node: Node[K]) -> None:
        """Before ``node`` goes: let the key before it end its stretch, where it was the one that did."""
        uses = node.uses
        if self._youngest[uses] is not node:
            return
        before = node.prev
        if before is not self._ring and before.uses == uses:
            self._youngest[uses] = before
        else:
            del self._youngest[uses]
