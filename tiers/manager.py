"""Where every block is, which block has to leave, and what has to move: the memory manager over all tiers.

It handles keys and slot numbers; bytes are moved by the TransferEngine. Every move has two phases: between ``prepare_``
and ``complete_`` a block is pinned and not readable. Level 0 is where blocks are used; each level below is larger and
slower. A block may have copies on several levels. A copy is dropped for free while there is another one; the last copy
of a block that we made ourselves is written to a level below before its slot is taken (write-back). Blocks of a
read-only ``backing`` tier, such as the weights of a model, always have that other copy.

Not thread-safe: one thread, that of the model, calls it.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from tiers.block import BlockKey
from tiers.errors import WorldError
from tiers.eviction.base import Expected
from tiers.link import Priority
from tiers.placement import Placement
from tiers.residency import Entry, Level, LookupResult, ManagerStats, Mover, PendingTransfer
from tiers.tier import Tier


class TieredMemoryManager:
    """See the module. ``levels`` from fast to slow; ``backing`` is a read-only tier with a fixed slot per key.

    With ``is_cache`` blocks are worth no more than the time it takes to make them again, as those of a prefix cache
    are: where the lowest level is full, what its policy chooses is forgotten, but for what is pinned. ``held`` says
    what is left.
    """

    def __init__(
        self, mover: Mover[Any], levels: Sequence[Level], backing: Tier | None = None, *, is_cache: bool = False
    ) -> None:
        self.mover = mover
        self.levels = levels
        self.backing = backing
        self.stats = ManagerStats()
        self._placement = Placement(mover, levels, backing, self.stats, is_cache)
        self._entries = self._placement.entries

    def adopt(self, slots: Mapping[BlockKey, int]) -> None:
        """Announce the blocks of the backing tier and their slots there."""
        assert self.backing is not None, "no backing tier to adopt blocks from"
        for key, slot in slots.items():
            assert key not in self._entries, "a block is adopted once"
            self._entries[key] = Entry([None] * len(self.levels) + [slot])

    def stage(self, keys: Sequence[BlockKey], index: int = 1) -> list[int]:
        """Slots of a level below for copies of backed blocks, from where they are brought sooner than from the backing.

        The caller fills them before anything else is asked of these blocks. Raises TierFullError.
        """
        slots = self._placement.allocate(index, len(keys))
        level = self.levels[index]
        for key, slot in zip(keys, slots, strict=True):
            entry = self._entries[key]
            assert entry.slots[-1] is not None, "only blocks that the backing tier holds are staged"
            assert entry.slots[index] is None, "a block is staged once"
            entry.slots[index] = slot
            level.pool.publish(slot)
            level.policy.insert(key)
        return slots

    def lookup(self, key: BlockKey) -> LookupResult:
        """Where a block stands; changes nothing. One that is open is there for its owner alone."""
        entry = self._entries.get(key)
        if entry is None:
            return LookupResult.MISS
        if entry.arrival is not None:
            is_done = entry.arrival.is_done  # before the error: it may come between the two
            if entry.arrival.error is not None:
                return LookupResult.BELOW
            return LookupResult.HIT if is_done else LookupResult.PENDING
        return LookupResult.BELOW if entry.slots[0] is None else LookupResult.HIT

    def held(self, keys: Iterable[BlockKey]) -> list[BlockKey]:
        """The blocks that any level holds: what there is to load."""
        entries = self._entries
        return [key for key in keys if key in entries]

    def missing(self, keys: Iterable[BlockKey]) -> list[BlockKey]:
        """The blocks that a level below holds and that are not on their way to level 0: what there is to prefetch."""
        entries = self._entries
        return [key for key in keys if (entry := entries.get(key)) is not None and entry.is_below]

    @property
    def room(self) -> int:
        """Slots of level 0 that are free or could be made free: fewer where blocks in the way are not copied yet."""
        level = self.levels[0]
        return level.pool.num_free + max(0, len(level.policy) - len(self._placement.pinned))

    def prepare_load(self, keys: Sequence[BlockKey]) -> None:
        """Pin blocks for use and start bringing those that are not on level 0. All or nothing.

        A key that is named twice is pinned twice. Raises TierFullError if level 0 cannot hold them, KeyError for a
        block that was never stored, and what stopped a block that had to make room: TransferError.
        """
        placement = self._placement
        wanted = [(key, self._entries[key]) for key in keys]
        self._forget_failures(wanted)
        missing: dict[BlockKey, None] = {}
        present: list[tuple[BlockKey, Entry]] = []
        for key, entry in wanted:
            if entry.slots[0] is None and key not in missing:
                missing[key] = None
            else:
                present.append((key, entry))
                placement.pin(key, entry)
        if missing:
            try:
                placement.fetch(list(missing), Priority.DEMAND)
            except BaseException:
                for key, entry in present:
                    placement.unpin(key, entry)
                raise
        stats, policy = self.stats, self.levels[0].policy
        stats.misses += len(missing)
        for key, entry in present:
            placement.unclaim(key, entry)
            if entry.arrival is not None and not entry.arrival.is_done:
                stats.pending_hits += 1
            else:
                stats.hits += 1
            policy.touch(key)

    def complete_load(self, keys: Sequence[BlockKey]) -> list[int]:
        """Wait for blocks that ``prepare_load`` pinned and return their slots on level 0.

        They stay pinned until ``release``. If one of them cannot be brought, all of these pins are dropped and the
        error that stopped it is raised: TransferError, CorruptBlockError.
        """
        slots: list[int] = []
        try:
            for key in keys:
                entry = self._entries[key]
                assert entry.pins > 0, "complete_load without prepare_load"
                if entry.slots[0] is None:
                    self._fetch_again(key, entry)
                if entry.arrival is not None:
                    self._placement.land(key, entry)
                slot = entry.slots[0]
                assert slot is not None
                slots.append(slot)
        except BaseException:
            self.release(keys)
            raise
        return slots

    def release(self, keys: Iterable[BlockKey]) -> None:
        """The caller is done with blocks that it loaded: they may be evicted."""
        for key in keys:
            self._placement.unpin(key, self._entries[key])

    def prefetch(self, keys: Sequence[BlockKey], *, is_guess: bool = False) -> list[BlockKey]:
        """Start bringing blocks that will be needed; returns those that could be started or are on level 0 already.

        A block whose transfer starts here is pinned until it is first used or given up with ``cancel_prefetch``. Takes
        the first keys for which there is room. Blocks that may not be needed (``is_guess``) come after all others.
        Raises KeyError for a block that was never stored.
        """
        entries = {key: self._entries[key] for key in keys}
        self._forget_failures(entries.items())
        wanted = [key for key, entry in entries.items() if entry.slots[0] is None]
        if len(wanted) > self.levels[0].pool.num_free:
            wanted = wanted[: self.room]
        if wanted:
            # Nobody needs these blocks yet: whoever does will meet the error, if it is still there.
            with suppress(WorldError):
                self._placement.fetch(wanted, Priority.GUESS if is_guess else Priority.PREFETCH)
                for key in wanted:
                    entries[key].is_prefetched = True
        return [key for key in keys if entries[key].slots[0] is not None]

    def forecast(self, step: int, expected: Iterable[tuple[BlockKey, Expected]]) -> None:
        """Tell the policy of level 0 what is expected from ``step`` on; see EvictionPolicy."""
        self.levels[0].policy.forecast(step, expected)

    def cancel_prefetch(self, keys: Iterable[BlockKey]) -> None:
        """Give up the claim on blocks that were prefetched and will not be used; their slots may be taken.

        What has not come yet of a guess does not come any more.
        """
        for key in keys:
            entry = self._entries.get(key)
            if entry is not None and entry.is_prefetched:
                self._placement.unclaim(key, entry)
                self._placement.call_off(key, entry)

    def prepare_store(self, keys: Sequence[BlockKey], prefer: int | None = None) -> list[int]:
        """Slots on level 0 for new blocks, pinned and for the caller alone to write. All or nothing.

        ``prefer`` is the first slot that would suit the caller. Raises TierFullError, and what stopped a block that had
        to make room: TransferError.
        """
        assert len(set(keys)) == len(keys), "a block is stored once"
        assert self._entries.keys().isdisjoint(keys), "a block is stored once"
        slots = self._placement.allocate(0, len(keys), prefer)
        self._placement.num_unbacked += len(keys)
        insert, below = self.levels[0].policy.insert, [None] * len(self.levels)
        for key, slot in zip(keys, slots, strict=True):
            self._entries[key] = Entry([slot, *below], pins=1, is_open=True)
            insert(key)
        self._placement.pinned.update(dict.fromkeys(keys))
        return slots

    def prepare_again(self, keys: Sequence[BlockKey]) -> list[int]:
        """As ``prepare_store``, of blocks that a level below holds: whoever asks makes them again rather than wait.

        The copies below stay. All or nothing; raises what ``prepare_store`` does.
        """
        placement = self._placement
        blocks = [(key, self._entries[key]) for key in keys]
        assert all(entry.slots[0] is None for _, entry in blocks), "a block that is there is not made again"
        for key, entry in blocks:
            placement.pin(key, entry)  # before room is made: no policy may choose their copies below
        try:
            slots = placement.allocate(0, len(keys))
        except BaseException:
            for key, entry in blocks:
                placement.unpin(key, entry)
            raise
        for (key, entry), slot in zip(blocks, slots, strict=True):
            entry.slots[0], entry.is_open = slot, True
            self.levels[0].policy.insert(key)
        return slots

    def sources(self, keys: Iterable[BlockKey]) -> list[int]:
        """The level from which each of these blocks would be loaded; all of them are below level 0."""
        return [self._entries[key].highest_copy()[0] for key in keys]

    def complete_store(self, keys: Sequence[BlockKey]) -> None:
        """Blocks are wholly written: they may be read by others and leave level 0.

        When level 0 runs short they are copied down at once, so that evicting them later costs nothing.
        """
        pool, unpin = self.levels[0].pool, self._placement.unpin
        blocks = [(key, self._entries[key]) for key in keys]
        for key, entry in blocks:
            slot = entry.slots[0]
            assert entry.is_open, "complete_store without prepare_store"
            assert slot is not None
            entry.is_open = False
            pool.publish(slot)
            unpin(key, entry)
        if len(self.levels) > 1 and pool.num_free < 2 * len(keys):
            with suppress(WorldError):  # nothing is lost: whoever needs the room will be told
                self._placement.copy_down(0, [block for block in blocks if block[1].is_only_on(0)])

    def reopen(self, key: BlockKey) -> int:
        """Make a stored block writable again, as by ``prepare_store``: on level 0, pinned, and without copies below."""
        entry = self._entries[key]
        assert entry.slots[-1] is None, "a block of the backing tier is read only"
        assert not entry.is_open, "a block is reopened once"
        self.prepare_load([key])
        (slot,) = self.complete_load([key])
        self._placement.settle(key, entry)
        for index in range(1, len(self.levels)):
            self._placement.drop_copy(index, key, entry)
        self.levels[0].pool.reopen(slot)
        entry.is_open = True
        return slot

    def share(self, keys: Iterable[BlockKey]) -> None:
        """One more owner for each block."""
        for key in keys:
            self._entries[key].references += 1

    def is_shared(self, key: BlockKey) -> bool:
        return self._entries[key].references > 1

    def discard(self, keys: Iterable[BlockKey]) -> None:
        """One owner fewer for each block; without owners it is forgotten on every level, without write-back."""
        for key in keys:
            entry = self._entries[key]
            if entry.references > 1:
                entry.references -= 1
                continue
            assert entry.pins == entry.is_prefetched + entry.is_open, "discarded while somebody reads it"
            self._placement.unclaim(key, entry)
            if entry.is_open:
                self._placement.unpin(key, entry)
            self._placement.settle(key, entry)
            for index in range(len(self.levels)):
                self._placement.drop_copy(index, key, entry)
            self._placement.num_unbacked -= entry.slots[-1] is None
            del self._entries[key]

    def check(self) -> None:
        """Raise AssertionError if the books of any level do not add up."""
        self._placement.check()

    def _forget_failures(self, wanted: Iterable[tuple[BlockKey, Entry]]) -> None:
        """A prefetch that failed is no reason not to try again."""
        for key, entry in wanted:
            if entry.arrival is not None and entry.arrival.error is not None:
                self._placement.abandon(key, entry)

    def _fetch_again(self, key: BlockKey, entry: Entry) -> None:
        """For a reader whose transfer has failed in the hands of another reader."""
        self._placement.fetch([key], Priority.DEMAND)
        self._placement.unpin(key, entry)


__all__ = ["Level", "LookupResult", "ManagerStats", "Mover", "PendingTransfer", "TieredMemoryManager"]
