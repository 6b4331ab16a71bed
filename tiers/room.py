"""Room on the levels: who is pinned, who has to leave for whom, and what becomes of a block whose transfer fails.

Between ``copy_down`` and the settling of it a slot is in flight. A transfer that has been given up, since the drive did
not answer, may still write: its target slot stays out of use until it is done.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tiers.block import BlockKey
from tiers.chunks import Move
from tiers.errors import TierFullError, WorldError
from tiers.link import Priority
from tiers.residency import Entry, Level, ManagerStats, Mover, PendingTransfer
from tiers.tier import Tier


@dataclass(frozen=True, slots=True)
class LastCopies(Collection[BlockKey]):
    """Pinned blocks, and those that no level but ``index`` holds. Asked rather than listed, since they may be many."""

    entries: Mapping[BlockKey, Entry]
    pinned: Collection[BlockKey]
    index: int

    def __contains__(self, key: object) -> bool:
        return key in self.pinned or not self.entries[key].has_other_copy(self.index)  # type: ignore[index]  # the seam says object

    def __iter__(self) -> Iterator[BlockKey]:
        return (key for key, entry in self.entries.items() if entry.slots[self.index] is not None and key in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


@dataclass(slots=True)
class Room:
    """Entries, pins and moves of all blocks. ``backing`` is a read-only tier below the last level."""

    mover: Mover[Any]
    levels: Sequence[Level]
    backing: Tier | None
    stats: ManagerStats
    is_cache: bool = False
    """Whether the last copy of a block may be dropped."""
    entries: dict[BlockKey, Entry] = field(default_factory=dict)
    # Keys with pins: what a policy must not choose. A dict of our own, so that no policy needs to know of pins.
    pinned: dict[BlockKey, None] = field(default_factory=dict)
    num_unbacked: int = 0
    """Blocks that the backing tier does not hold."""
    # Level and slot that a transfer may still write to although nobody waits for it any more.
    _stranded: list[tuple[PendingTransfer, int, int]] = field(default_factory=list)

    def pin(self, key: BlockKey, entry: Entry) -> None:
        entry.pins += 1
        self.pinned[key] = None

    def unpin(self, key: BlockKey, entry: Entry) -> None:
        assert entry.pins > 0, "released more often than loaded"
        entry.pins -= 1
        if entry.pins == 0:
            del self.pinned[key]

    def unclaim(self, key: BlockKey, entry: Entry) -> None:
        """Drop the pin of a prefetch, if there is one."""
        if entry.is_prefetched:
            entry.is_prefetched = False
            self.unpin(key, entry)

    def land(self, key: BlockKey, entry: Entry) -> None:
        """Wait for a block on its way up and make it readable; on failure it is as if it had never set out."""
        assert entry.arrival is not None
        slot = entry.slots[0]
        assert slot is not None
        try:
            self.mover.wait(entry.arrival)
        except WorldError:
            self.abandon(key, entry)
            raise
        entry.arrival = None
        self.levels[0].pool.publish(slot)

    def abandon(self, key: BlockKey, entry: Entry) -> None:
        """Undo a fetch that failed; the copy from which it came is still there."""
        transfer = entry.arrival
        assert transfer is not None
        self.unclaim(key, entry)
        entry.arrival = None
        self.drop_copy(0, key, entry, transfer)

    def settle(self, key: BlockKey, entry: Entry) -> None:
        """Wait for whatever is under way for a block. What fails leaves no copy behind; nobody had asked for it."""
        if entry.arrival is not None:
            with suppress(WorldError):
                self.land(key, entry)
        if entry.departure is not None:
            with suppress(WorldError):
                self._settle_departure(key, entry)

    def allocate(self, index: int, n: int, prefer: int | None = None) -> list[int]:
        """Take ``n`` slots of a level; others may have to leave. Raises TierFullError, or what stopped those."""
        pool = self.levels[index].pool
        self._reclaim()
        if n > pool.num_free:
            self._make_room(index, n)
        if n > pool.num_free:
            # Those that left were being filled by a drive that does not answer, and may still be.
            raise TierFullError(self.levels[index].tier.name, wanted_slots=n, available_slots=pool.num_free)
        return pool.allocate(n, prefer)

    def copy_down(self, index: int, blocks: Sequence[tuple[BlockKey, Entry]]) -> None:
        """Start copying blocks to a level below. Raises TierFullError, or what stopped those that had to leave."""
        if not blocks:
            return
        below, slots = self._allocate_below(index, len(blocks))
        # In the order of their slots: neighbours stay neighbours, so that they come back in one request.
        blocks = sorted(blocks, key=lambda block: block[1].slots[index] or 0)
        sources = [_there(entry.slots[index]) for _, entry in blocks]
        moves = [*map(Move, sources, slots)]
        try:
            transfer = self.mover.submit(self.levels[index].tier, self.levels[below].tier, moves, Priority.WRITE_BACK)
        except BaseException:  # a link that cannot be opened
            self.levels[below].pool.free_all(slots)
            raise
        departure = (transfer, below)
        insert = self.levels[below].policy.insert
        for (key, entry), slot in zip(blocks, slots, strict=True):
            entry.slots[below] = slot
            entry.departure = departure
            insert(key)
        self.stats.write_backs += len(blocks)

    def drop_copy(self, index: int, key: BlockKey, entry: Entry, filled_by: PendingTransfer | None = None) -> None:
        """Forget the copy on a level, if there is one; its slot is free once ``filled_by`` no longer writes to it."""
        slot = entry.slots[index]
        if slot is None:
            return
        level = self.levels[index]
        if key in level.policy:  # a victim has left it already
            level.policy.remove(key)
        entry.slots[index] = None
        if filled_by is None or filled_by.is_done:
            level.pool.free(slot)
        else:
            self._stranded.append((filled_by, index, slot))

    def _reclaim(self) -> None:
        """Free the slots to which no forgotten transfer writes any more."""
        if not self._stranded:
            return
        stranded, self._stranded = self._stranded, []
        for transfer, index, slot in stranded:
            if transfer.is_done:
                self.levels[index].pool.free(slot)
            else:
                self._stranded.append((transfer, index, slot))

    def _make_room(self, index: int, wanted: int) -> None:
        """Evict until ``wanted`` slots of a level are free.

        The policy chooses, as long as the levels below can take its choice; else only what has a copy elsewhere goes.
        """
        # Where all blocks are backed no copy is the last; to find that out block by block would take long.
        last_copies = LastCopies(self.entries, self.pinned, index) if self.num_unbacked else self.pinned
        if index + 1 == len(self.levels):
            self._evict(index, wanted, self.pinned if self._may_forget(index) else last_copies)
            return
        try:
            self._evict(index, wanted, self.pinned)
        except TierFullError as full:
            try:
                self._evict(index, wanted, last_copies)
            except TierFullError:
                raise full from None

    def _evict(self, index: int, wanted: int, protected: Collection[BlockKey]) -> None:
        level = self.levels[index]
        n = wanted - level.pool.num_free
        if n <= 0:
            return
        victims = level.policy.evict(n, protected)
        if not victims:
            spare = sum(
                1 for key, entry in self.entries.items() if entry.slots[index] is not None and key not in protected
            )
            raise TierFullError(level.tier.name, wanted_slots=wanted, available_slots=level.pool.num_free + spare)
        there = [(key, self.entries[key]) for key in victims]
        try:
            self._write_back(index, there)
        except BaseException:
            for key, entry in there:
                if entry.slots[index] is not None:
                    level.policy.insert(key)
            raise
        freed = [slot for _, entry in there if (slot := entry.slots[index]) is not None]
        for _, entry in there:
            entry.slots[index] = None
        level.pool.free_all(freed)
        if self._may_forget(index):
            self._forget(there)
        self.stats.evictions += len(victims)

    def _may_forget(self, index: int) -> bool:
        """Whether a level may drop the last copy of a block."""
        return self.is_cache and index + 1 == len(self.levels)

    def _forget(self, victims: Sequence[tuple[BlockKey, Entry]]) -> None:
        """Those of which there is no copy any more."""
        num_nowhere = len(self.levels) + 1
        for key, entry in victims:
            if entry.slots.count(None) == num_nowhere:
                del self.entries[key]
                self.num_unbacked -= 1

    def _write_back(self, index: int, victims: Sequence[tuple[BlockKey, Entry]]) -> None:
        """See to it that each victim has a readable copy on another level than ``index``."""
        for key, entry in self._still_moving(victims):
            self.settle(key, entry)
        if self._may_forget(index):
            return
        last_copies = [block for block in victims if block[1].is_only_on(index)]
        if not last_copies:
            return
        # Pinned for a moment: a clean victim lives on in a copy below, which must not make room for another victim.
        clean: dict[BlockKey, None] = {}
        if len(last_copies) < len(victims):
            clean = dict.fromkeys(key for key, entry in victims if not entry.is_only_on(index))
        self.pinned.update(clean)
        try:
            self.copy_down(index, last_copies)
            self._settle_departure(*last_copies[0])
            for key, entry in self._still_moving(last_copies):
                self._settle_departure(key, entry)
        finally:
            for key in clean:
                del self.pinned[key]

    def _still_moving(self, blocks: Sequence[tuple[BlockKey, Entry]]) -> list[tuple[BlockKey, Entry]]:
        """Those for which a transfer has to be waited for; where one to a level below is over, its copy counts."""
        moving = []
        over: tuple[PendingTransfer, int] | None = None
        for key, entry in blocks:
            departure = entry.departure
            if departure is None and entry.arrival is None:
                continue
            # Blocks that went down together have the same departure.
            if departure is None or entry.arrival is not None or (departure is not over and not _is_over(departure)):
                moving.append((key, entry))
                continue
            over = departure
            slot = entry.slots[departure[1]]
            assert slot is not None
            entry.departure = None
            self.levels[departure[1]].pool.publish(slot)
        return moving

    def _allocate_below(self, index: int, n: int) -> tuple[int, list[int]]:
        """Slots on the next level below that has them free; where none has, on the lowest that can make room.

        In a cache what was used last is kept near: each level makes room for it, from the next one down.
        """
        self._reclaim()
        below = range(index + 1, len(self.levels))
        if not self.is_cache:
            for lower in below:
                if self.levels[lower].pool.num_free >= n:
                    return lower, self.allocate(lower, n)
        full = TierFullError(self.levels[index].tier.name, wanted_slots=n, available_slots=0)
        for lower in below if self.is_cache else reversed(below):
            try:
                return lower, self.allocate(lower, n)
            except TierFullError as error:
                full = error
        raise full

    def _settle_departure(self, key: BlockKey, entry: Entry) -> None:
        """Wait for a block on its way down, and make its copy there count; a failed copy is dropped and raised."""
        if entry.departure is None:
            return
        transfer, below = entry.departure
        slot = entry.slots[below]
        assert slot is not None
        try:
            self.mover.wait(transfer)
        except WorldError:
            entry.departure = None
            self.drop_copy(below, key, entry, transfer)
            raise
        entry.departure = None
        self.levels[below].pool.publish(slot)


def _is_over(departure: tuple[PendingTransfer, int]) -> bool:
    transfer, _ = departure
    return transfer.is_done and transfer.error is None


def _there(slot: int | None) -> int:
    assert slot is not None, "no copy to move"
    return slot
