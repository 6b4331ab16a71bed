"""Doubly linked rings of keys: a policy that finds a key by one hash can then move it without another.

Hashing a BlockKey costs more than relinking a node, so policies with several queues keep one dict of nodes beside rings
rather than one ordered dict per queue.
"""

from collections.abc import Collection
from typing import Generic

from tiers.eviction.base import K


class Node(Generic[K]):
    """A resident key in one ring. ``uses`` is counted by the policy, each in its own way."""

    __slots__ = ("key", "next", "prev", "ring", "uses")
    key: K
    uses: int
    prev: "Node[K]"
    next: "Node[K]"
    ring: "Ring[K]"

    def __init__(self, key: K, uses: int = 0) -> None:
        self.key = key
        self.uses = uses

    def unlink(self) -> None:
        """Leave the ring. The links stay as they were, and mean nothing from now on."""
        self.prev.next = self.next
        self.next.prev = self.prev
        self.ring.size -= 1


class Ring(Node[K]):
    """A queue of ``size`` nodes, oldest first. It is itself the node, without a key, that closes the ring."""

    __slots__ = ("size",)

    def __init__(self) -> None:
        self.size = 0
        self.prev = self
        self.next = self

    def append(self, node: Node[K]) -> None:
        """Put an unlinked node at the young end."""
        self.insert_after(self.prev, node)

    def insert_after(self, anchor: Node[K], node: Node[K]) -> None:
        """Put an unlinked node next to ``anchor``, on the younger side; the ring itself as anchor means the old end."""
        younger = anchor.next
        node.ring = self
        node.prev = anchor
        node.next = younger
        anchor.next = node
        younger.prev = node
        self.size += 1


class OldestFirst(Generic[K]):
    """Finds the oldest unprotected node of a ring again and again, and steps over each protected one only once.

    Between two calls the node last found may be unlinked or moved to the young end, and nodes may be appended: the
    place is remembered as the protected node just passed, which stays.
    """

    __slots__ = ("_passed", "_protected", "_ring")

    def __init__(self, ring: Ring[K], protected: Collection[K]) -> None:
        self._ring = ring
        self._protected = protected
        self._passed: Node[K] = ring

    def peek(self) -> Node[K] | None:
        """The oldest node whose key may go, still linked; None when there is none."""
        node = self._passed.next
        while node is not self._ring and node.key in self._protected:
            self._passed = node
            node = node.next
        return None if node is self._ring else node
