"""What the memory manager knows: levels, the answers it gives, its counters, and one entry for every block."""

from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(slots=True)
class Level:
    """One tier under management: its slots and the policy that says which block has to leave."""

    tier: Tier
    pool: BlockPool
    policy: EvictionPolicy[BlockKey]


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


@dataclass(slots=True, eq=False)
class Entry:
    """What is known of one block. ``slots[level]`` is its slot there; the level below the last is the backing tier."""

    slots: list[int | None]
    arrival: PendingTransfer | None = None
    """The transfer that brings it to level 0."""
    departure: tuple[PendingTransfer, int] | None = None
    """The transfer that copies it down, and the level to which."""
    pins: int = 0
    references: int = 1
    is_prefetched: bool = False
    """Holds one pin until it is used for the first time."""
    is_open: bool = False
    """Between prepare_store and complete_store: being written by its owner."""

    @property
    def is_below(self) -> bool:
        """Whether it is neither on level 0 nor on its way there."""
        return self.slots[0] is None or (self.arrival is not None and self.arrival.error is not None)

    def has_other_copy(self, index: int) -> bool:
        """Whether a level other than ``index`` holds it, or will as soon as a transfer has ended."""
        here = self.slots[index] is not None
        return len(self.slots) - self.slots.count(None) > here

    def is_only_on(self, index: int) -> bool:
        """Whether the copy on a level is there, and is the only one."""
        return self.slots.count(None) == len(self.slots) - 1 and self.slots[index] is not None

    def highest_copy(self) -> tuple[int, int]:
        """The level from which it is best fetched to level 0, and its slot there."""
        for index, slot in enumerate(self.slots):
            if index and slot is not None:
                # A copy on its way down has its source above it until it has arrived.
                assert self.departure is None or self.is_readable(index), "the only copy below has not arrived"
                return index, slot
        raise AssertionError("a block without any copy")

    def is_readable(self, index: int) -> bool:
        """Whether the bytes of its copy on a level are complete as far as the books know."""
        if index == 0:
            return self.arrival is None and not self.is_open
        return self.departure is None or self.departure[1] != index
