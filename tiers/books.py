"""What the memory manager has written down: where every copy is, who is pinned, and what is on its way.

A block exists as long as there is a copy of it. Only few blocks are pinned, open, shared or moving at a time: for each
of these there is a dict or a set, and no object for a block.
"""

from collections.abc import Collection, Iterable, Iterator, KeysView, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import filterfalse
from typing import Any

from tiers.block import BlockKey
from tiers.errors import WorldError
from tiers.residency import Landing, Level, ManagerStats, Mover, PendingTransfer
from tiers.tier import Tier


@dataclass(slots=True)
class Books:
    """All of it. ``backing`` is a read-only tier below the last level."""

    mover: Mover[Any]
    levels: Sequence[Level]
    backing: Tier | None
    stats: ManagerStats
    is_cache: bool = False
    """Whether the last copy of a block may be dropped."""
    has_stored: bool = False
    """Whether there ever were blocks that the backing tier does not hold."""
    backed: dict[BlockKey, int] = field(default_factory=dict)
    """Slots on the backing tier."""
    pinned: dict[BlockKey, int] = field(default_factory=dict)
    """How often each block is pinned that is: those that a policy must not choose."""
    claims: set[BlockKey] = field(default_factory=set)
    """Blocks that were prefetched, each of which holds a pin until it is used for the first time."""
    opened: set[BlockKey] = field(default_factory=set)
    """Blocks between prepare_store and complete_store: being written by their owners."""
    shares: dict[BlockKey, int] = field(default_factory=dict)
    """Owners besides the first one, where there are any."""
    arrivals: dict[BlockKey, PendingTransfer] = field(default_factory=dict)
    """The transfers that bring blocks to level 0."""
    # Level and slot that a transfer may still write to although nobody waits for it any more.
    _stranded: list[tuple[PendingTransfer, int, int]] = field(default_factory=list)
    _copies: list[dict[BlockKey, int]] = field(init=False)
    _views: list[KeysView[BlockKey]] = field(init=False)

    def __post_init__(self) -> None:
        self._copies = [*[level.slots for level in self.levels], self.backed]
        self._views = [slots.keys() for slots in self._copies]

    def pin(self, keys: Iterable[BlockKey]) -> None:
        pinned = self.pinned
        for key in keys:
            pinned[key] = pinned.get(key, 0) + 1

    def unpin(self, keys: Iterable[BlockKey]) -> None:
        pinned = self.pinned
        for key in keys:
            pins = pinned.pop(key, 0)
            assert pins > 0, "released more often than loaded"
            if pins > 1:
                pinned[key] = pins - 1

    def unclaim(self, key: BlockKey) -> None:
        """Drop the pin of a prefetch, if there is one."""
        if key in self.claims:
            self.claims.remove(key)
            self.unpin([key])

    def copies(self) -> list[dict[BlockKey, int]]:
        """The slots on every level, and on the backing tier."""
        return self._copies

    def held(self, keys: list[BlockKey]) -> list[BlockKey]:
        """Those of which there is a copy; most often the first ones."""
        unknown = self.unknown(keys)
        num_held = len(keys) - len(unknown)
        if keys[num_held:] == unknown:
            return keys[:num_held]
        return list(filterfalse(set(unknown).__contains__, keys))

    def unknown(self, keys: list[BlockKey]) -> list[BlockKey]:
        """Those of which there is none."""
        for slots in self._copies:
            if slots and keys:
                keys = list(filterfalse(slots.__contains__, keys))
        return keys

    def is_new(self, keys: KeysView[BlockKey]) -> bool:
        """Whether there is a copy of none of them. Of two views the shorter one is walked."""
        return all(map(keys.isdisjoint, self._views))

    def sources_of(self, keys: Iterable[BlockKey]) -> list[int]:
        """The level below level 0 from which each block is best fetched. KeyError for one that none of them holds."""
        below = list(enumerate(self.copies()))[1:]
        sources = []
        for key in keys:
            for index, slots in below:
                if key in slots:
                    sources.append(index)
                    break
            else:
                raise KeyError(key)
        return sources

    def last_copies(self, index: int, keys: Sequence[BlockKey]) -> Sequence[BlockKey]:
        """Those of the keys that no other level holds than ``index``."""
        for other, slots in enumerate(self.copies()):
            if other != index and slots and keys:
                keys = list(filterfalse(slots.__contains__, keys))
        return keys

    def spare_copies(self, index: int) -> set[BlockKey]:
        """Blocks of a level that may leave it without a trace: nobody has pinned them, and another level holds them.

        Without a look at each block of a large level: what it shares with another is found from the smaller one.
        """
        here, spare = self.levels[index].slots.keys(), set[BlockKey]()
        for other, slots in enumerate(self.copies()):
            if other != index and slots:
                spare |= here & slots.keys()
        return spare.difference(self.pinned)

    def land(self, keys: Iterable[BlockKey]) -> None:
        """Wait for blocks on their way up and make them readable; one that fails is as if it had never set out."""
        arrivals, level = self.arrivals, self.levels[0]
        has_come: PendingTransfer | None = None
        come = []
        try:
            for key in keys:
                transfer = arrivals[key]
                if transfer is not has_come:
                    self.mover.wait(transfer)
                    has_come = transfer
                del arrivals[key]
                come.append(level.slots[key])
        except WorldError:
            self.abandon(key)
            raise
        finally:
            level.pool.publish_all(come)

    def abandon(self, key: BlockKey) -> None:
        """Undo a fetch that failed; the copy from which it came is still there."""
        self.unclaim(key)
        self.drop_copy(0, key, self.arrivals.pop(key))

    def land_below(self, index: int, landing: Landing) -> None:
        """Wait for copies on their way down to a level, and let them count; those that failed are dropped."""
        try:
            self.mover.wait(landing.transfer)
        finally:
            if _has_ended(landing.transfer):
                self._note_end(index, landing)

    def _note_end(self, index: int, landing: Landing) -> None:
        level = self.levels[index]
        level.landings.remove(landing)
        if landing.transfer.error is None:
            level.pool.publish_all(landing.slots.values())
            return
        for key in landing.slots:
            self.drop_copy(index, key, landing.transfer)

    def settle(self, keys: Collection[BlockKey], at: int | None = None) -> None:
        """Wait for whatever is under way for blocks, or only for what reads or fills their copies on level ``at``.

        What fails leaves no copy behind; nobody had asked for it.
        """
        for key in filter(self.arrivals.__contains__, keys) if self.arrivals else ():
            with suppress(WorldError):
                self.land([key])
        moving = [
            (index, landing)
            for index, level in enumerate(self.levels)
            for landing in level.landings
            if (at is None or at in (index, landing.source)) and not landing.slots.keys().isdisjoint(keys)
        ]
        for index, landing in moving:
            with suppress(WorldError):
                self.land_below(index, landing)

    def reclaim(self) -> None:
        """Take note of what has ended: copies below that have come, and slots that nobody writes to any more."""
        for index, level in enumerate(self.levels):
            while level.landings and _has_ended(level.landings[0].transfer):
                self._note_end(index, level.landings[0])
        if self._stranded:
            stranded, self._stranded = self._stranded, []
            for transfer, index, slot in stranded:
                if transfer.is_done:
                    self.levels[index].pool.free(slot)
                else:
                    self._stranded.append((transfer, index, slot))

    def drop_copy(self, index: int, key: BlockKey, filled_by: PendingTransfer | None = None) -> None:
        """Forget the copy on a level, if there is one; its slot is free once ``filled_by`` no longer writes to it."""
        level = self.levels[index]
        slot = level.slots.pop(key, None)
        if slot is None:
            return
        if key in level.leaving:
            del level.leaving[key]
        elif key in level.policy:  # a victim has left it already
            level.policy.remove(key)
        if filled_by is None or filled_by.is_done:
            level.pool.free(slot)
        else:
            self._stranded.append((filled_by, index, slot))

    def check(self) -> None:
        """Raise AssertionError if the books of any level do not add up."""
        for index in range(len(self.levels)):
            self._check_level(index)
        known = {key for slots in self.copies() for key in slots}
        assert known.issuperset(self.pinned), "a block that is gone is pinned"
        assert known.issuperset(self.shares), "a block that is gone has owners"
        for key, pins in self.pinned.items():
            assert pins > 0, f"{key}: pins {pins}"
        for key in {*self.claims, *self.opened}:
            pins, claims = self.pinned.get(key, 0), (key in self.claims) + (key in self.opened)
            assert pins >= claims, f"{key}: pins {pins}, wanted by {claims}"

    def _check_level(self, index: int) -> None:
        level = self.levels[index]
        level.pool.check()
        here, used = level.slots, level.pool.num_used
        stranded = [slot for _, at, slot in self._stranded if at == index]
        slots = {*here.values(), *stranded}
        known = len(level.policy) + len(level.leaving)
        assert len(slots) == len(here) + len(stranded), f"level {index}: two blocks in one slot"
        assert len(slots) == used, f"level {index}: {len(here)} blocks, {len(stranded)} stranded, {used} slots used"
        assert known == len(here), f"level {index}: policy knows {known} of {len(here)} blocks"
        moving = {key for landing in level.landings for key in landing.slots}
        moving |= {*self.arrivals, *self.opened} if index == 0 else set()
        for key, slot in here.items():
            assert (key in level.policy) != (key in level.leaving), f"level {index}: policy does not know {key}"
            assert level.pool.is_resident(slot) == (key not in moving), f"level {index}: {key} in slot {slot}"


def _has_ended(transfer: PendingTransfer) -> bool:
    return transfer.is_done or transfer.error is not None


def without_first(keys: Iterable[BlockKey], once: Iterable[BlockKey]) -> list[BlockKey]:
    """The keys, but that each of ``once`` is left out the first time that it is named."""
    left, rest = set(once), []
    for key in keys:
        if key in left:
            left.remove(key)
        else:
            rest.append(key)
    return rest


@dataclass(frozen=True, slots=True)
class AllBut(Collection[BlockKey]):
    """The blocks of a level but for ``spare`` ones. Asked rather than listed, since they may be many."""

    slots: Mapping[BlockKey, int]
    spare: AbstractSet[BlockKey]

    def __contains__(self, key: object) -> bool:
        return key not in self.spare

    def __iter__(self) -> Iterator[BlockKey]:
        return (key for key in self.slots if key in self)

    def __len__(self) -> int:
        return len(self.slots) - len(self.spare)
