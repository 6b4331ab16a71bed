"""S3-FIFO: three queues and no reordering on a hit (Yang et al., SOSP 2023)."""

from collections import OrderedDict
from collections.abc import Collection

from tiers.eviction.base import EvictionPolicy, K
from tiers.eviction.choose import can_spare
from tiers.eviction.linked import Node, OldestFirst, Ring

MAX_USES = 3
"""Two bits per key, as in the paper: more would only delay the eviction of what was popular once."""


class S3FIFOPolicy(EvictionPolicy[K]):
    """New keys pass a small queue, a tenth of the slots; only those used again there enter the main queue.

    A key leaves the small queue for the main one if it was used more than once since its arrival, else it is evicted
    and remembered as a ghost; a ghost that returns goes to the main queue at once. The main queue gives a used key
    another round per use. As many ghosts are kept as the main queue has slots.

    Room is made before the ghosts are looked at, as in the paper's algorithm 1 (insert: evict while the cache is full,
    then see whether the key is a ghost), and newcomers pass the small queue from the first one on. libCacheSim looks
    first, and lets newcomers into the main queue until the cache is full for the first time. On Mooncake's trace that
    is worth from 14 % more hits to 10 % fewer, depending on the number of slots.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._small_slots = max(1, capacity // 10)
        self._nodes: dict[K, Node[K]] = {}
        self._small: Ring[K] = Ring()
        self._main: Ring[K] = Ring()
        self._ghosts: OrderedDict[K, None] = OrderedDict()

    def insert(self, key: K, cost: float = 1.0) -> None:
        if key in self._nodes:
            raise KeyError(key)
        ring = self._small
        if key in self._ghosts:
            del self._ghosts[key]
            ring = self._main
        node = self._nodes[key] = Node(key)
        ring.append(node)

    def touch(self, key: K) -> None:
        node = self._nodes[key]
        if node.uses < MAX_USES:
            node.uses += 1

    def remove(self, key: K) -> None:
        self._nodes.pop(key).unlink()

    def evict(self, n: int, protected: Collection[K] = ()) -> list[K]:
        if not can_spare(self._nodes, n, protected):
            return []
        victims: list[K] = []
        small = OldestFirst(self._small, protected)
        main = OldestFirst(self._main, protected)
        while len(victims) < n:
            first, then = (small, main) if self._small.size >= self._small_slots else (main, small)
            node = first.peek() or then.peek()
            assert node is not None
            if self._stays(node):
                continue
            self._drop(node)
            victims.append(node.key)
        return victims

    def __contains__(self, key: object) -> bool:
        return key in self._nodes

    def __len__(self) -> int:
        return len(self._nodes)

    def _stays(self, node: Node[K]) -> bool:
        """Whether the uses of a key at the end of its queue earn it a place at the start of the main one."""
        if node.ring is self._small:
            if node.uses <= 1:
                return False
            node.uses = 0
        else:
            if node.uses == 0:
                return False
            node.uses -= 1
        node.unlink()
        self._main.append(node)
        return True

    def _drop(self, node: Node[K]) -> None:
        node.unlink()
        del self._nodes[node.key]
        if node.ring is self._small:
            self._ghosts[node.key] = None
            if len(self._ghosts) > self.capacity - self._small_slots:
                self._ghosts.popitem(last=False)
