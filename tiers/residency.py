"""What the memory manager knows: the levels and the copies there, the answers it gives, and its counters.

There is no object for a block. What nearly all blocks have, a slot on some level, is a number in that level's dict;
what few have at a time, such as pins, lies in dicts and sets of ``tiers.books``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol, TypeVar

from tiers.block import BlockKey
from tiers.chunks import Move
from tiers.errors import WorldError
from tiers.eviction.base import EvictionPolicy
from tiers.link import Priority
from tiers.pool import BlockPool
from tiers.tier import Tier


class PendingTransfer(Protocol):
    """What the manager needs to know of a transfer on its way.

    ``error`` may come before ``is_done``; as long as that is false, slots may still be read and written.
    """

    is_done: bool
    error: WorldError | None
    priority: Priority


T = TypeVar("T", bound=PendingTransfer)


class Mover(Protocol[T]):
    """Moves bytes, in real or in simulated time. TransferEngine is the real one."""

    def submit(self, source: Tier, target: Tier, moves: Sequence[Move], priority: Priority) -> T: ...

    def wait(self, transfer: T) -> None: ...

    def cancel(self, transfer: T) -> bool: ...


class LookupResult(Enum):
    """Where a block stands."""

    MISS = auto()
    """No level holds it."""
    BELOW = auto()
    """A lower level holds it."""
    PENDING = auto()
    """It is on its way to level 0."""
    HIT = auto()
    """It can be used now."""


@dataclass(slots=True, eq=False)
class Landing:
    """Copies on their way to a level below. They come, or fail, together."""

    transfer: PendingTransfer
    source: int
    """The level from which they come."""
    slots: Mapping[BlockKey, int]
    """Where each of them comes to lie."""


@dataclass(slots=True)
class Level:
    """One tier under management: its slots, which block is in which of them, and the policy that says which leaves."""

    tier: Tier
    pool: BlockPool
    policy: EvictionPolicy[BlockKey]
    slots: dict[BlockKey, int] = field(default_factory=dict)
    """Of every copy on the level, complete or not."""
    landings: list[Landing] = field(default_factory=list)
    """Copies on their way down to the level, in the order in which they set out."""
    leaving: dict[BlockKey, None] = field(default_factory=dict)
    """Copies that the policy gave up ahead of time, in this order: of use until their slots are wanted."""
    most_at_once: int = 0
    """The most blocks that came down to the level at once so far."""


@dataclass(slots=True)
class ManagerStats:
    """Counters of blocks asked for by ``prepare_load``."""

    hits: int = 0
    """On level 0 already."""
    pending_hits: int = 0
    """Prefetched, but not there yet."""
    misses: int = 0
    evictions: int = 0
    write_backs: int = 0

    @property
    def accesses(self) -> int:
        """All of them."""
        return self.hits + self.pending_hits + self.misses

    @property
    def hit_ratio(self) -> float:
        """Share of blocks for which no demand transfer had to be started."""
        return (self.hits + self.pending_hits) / self.accesses if self.accesses else 1.0
