"""Doubly linked rings of keys: a policy that finds a key by one hash can then move it to any place without another.

For orders in which keys go to other places than the ends; where they do not, an ordered dict takes less time.
"""

from collections.abc import Iterator
from typing import Generic

from tiers.eviction.base import K


class Node(Generic[K]):
    """A resident key in a ring. ``uses`` is counted by the policy, each in its own way."""

    __slots__ = ("key", "next", "prev", "uses")
    key: K
    uses: int
    prev: "Node[K]"
    next: "Node[K]"

    def __init__(self, key: K, uses: int = 0) -> None:
        self.key = key
        self.uses = uses

    def unlink(self) -> None:
        """Leave the ring. The links stay as they were, and mean nothing from now on."""
        self.prev.next = self.next
        self.next.prev = self.prev


class Ring(Node[K]):
    """A queue of nodes; iterating gives their keys, oldest first. It is itself the node that closes the ring."""

    __slots__ = ()

    def __init__(self) -> None:
        self.prev = self
        self.next = self

    def insert_after(self, anchor: Node[K], node: Node[K]) -> None:
        """Put an unlinked node next to ``anchor``, on the younger side; the ring itself as anchor means the old end."""
        younger = anchor.next
        node.prev = anchor
        node.next = younger
        anchor.next = node
        younger.prev = node

    def __iter__(self) -> Iterator[K]:
        node = self.next
        while node is not self:
            yield node.key
            node = node.next
