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
from itertools import filterfalse
from typing import Any

from tiers.block import BlockKey
from tiers.books import without_first
from tiers.errors import WorldError
from tiers.eviction.base import Expected
from tiers.link import Priority
from tiers.placement import Placement
from tiers.residency import Level, LookupResult, ManagerStats, Mover, PendingTransfer
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

    def adopt(self, slots: Mapping[BlockKey, int]) -> None:
        """Announce the blocks of the backing tier and their slots there."""
        assert self.backing is not None, "no backing tier to adopt blocks from"
        assert self._placement.backed.keys().isdisjoint(slots), "a block is adopted once"
        self._placement.backed.update(slots)

    def stage(self, keys: Sequence[BlockKey], index: int = 1) -> list[int]:
        """Slots of a level below for copies of backed blocks, from where they are brought sooner than from the backing.

        The caller fills them before anything else is asked of these blocks. Raises TierFullError.
        """
        level = self.levels[index]
        assert all(key in self._placement.backed for key in keys), "only blocks that the backing tier holds are staged"
        assert level.slots.keys().isdisjoint(keys), "a block is staged once"
        slots = self._placement.allocate(index, keys)
        level.slots.update(zip(keys, slots, strict=True))
        level.pool.publish_all(slots)
        level.policy.insert_all(keys)
        return slots

    def lookup(self, key: BlockKey) -> LookupResult:
        """Where a block stands; changes nothing. One that is open is there for its owner alone."""
        arrival = self._placement.arrivals.get(key)
        if arrival is not None:
            is_done = arrival.is_done  # before the error: it may come between the two
            if arrival.error is not None:
                return LookupResult.BELOW
            return LookupResult.HIT if is_done else LookupResult.PENDING
        if key in self.levels[0].slots:
            return LookupResult.HIT
        return LookupResult.MISS if self._placement.unknown([key]) else LookupResult.BELOW

    def held(self, keys: Iterable[BlockKey]) -> list[BlockKey]:
        """The blocks that any level holds: what there is to load."""
        return self._placement.held(list(keys))

    def missing(self, keys: Iterable[BlockKey]) -> list[BlockKey]:
        """The blocks that a level below holds and that are not on their way to level 0: what there is to prefetch."""
        here, arrivals = self.levels[0].slots, self._placement.arrivals
        failed = [key for key, transfer in arrivals.items() if transfer.error is not None]
        return self._placement.held([key for key in keys if key not in here or key in failed])

    @property
    def room(self) -> int:
        """Slots of level 0 that are free or could be made free: fewer where blocks in the way are not copied yet."""
        level = self.levels[0]
        return level.pool.num_free + max(0, len(level.policy) - len(self._placement.pinned))

    def room_besides(self, keys: Iterable[BlockKey]) -> int:
        """As ``room``, were these blocks pinned as well."""
        here, pinned = self.levels[0].slots, self._placement.pinned
        return self.room - sum(1 for key in keys if key in here and key not in pinned)

    def prepare_load(self, keys: Sequence[BlockKey]) -> None:
        """Pin blocks for use and start bringing those that are not on level 0. All or nothing.

        A key that is named twice is pinned twice. Raises TierFullError if level 0 cannot hold them, KeyError for a
        block that was never stored, and what stopped a block that had to make room: TransferError.
        """
        placement, here = self._placement, self.levels[0].slots
        self._forget_failures(keys)
        missing = dict.fromkeys(filterfalse(here.__contains__, keys))
        # Named a second time, a block that is missing is on its way.
        present = without_first(keys, missing) if missing else keys
        placement.pin(keys)
        if missing:
            try:
                placement.fetch(list(missing), Priority.DEMAND)
            except BaseException:
                placement.unpin(keys)
                raise
        stats, policy, arrivals = self.stats, self.levels[0].policy, placement.arrivals
        num_pending = sum(1 for key in present if key in arrivals and not arrivals[key].is_done) if arrivals else 0
        stats.misses += len(missing)
        stats.pending_hits += num_pending
        stats.hits += len(present) - num_pending
        for key in present:
            policy.touch(key)
        for key in placement.claims.intersection(present) if placement.claims else ():
            placement.unclaim(key)

    def complete_load(self, keys: Sequence[BlockKey]) -> list[int]:
        """Wait for blocks that ``prepare_load`` pinned and return their slots on level 0.

        They stay pinned until ``release``. If one of them cannot be brought, all of these pins are dropped and the
        error that stopped it is raised: TransferError, CorruptBlockError.
        """
        placement, here = self._placement, self.levels[0].slots
        assert all(map(placement.pinned.__contains__, keys)), "complete_load without prepare_load"
        try:
            for key in filterfalse(here.__contains__, keys):  # its transfer has failed in the hands of another reader
                placement.fetch([key], Priority.DEMAND)
            if placement.arrivals:
                placement.land(filter(placement.arrivals.__contains__, keys))
            return list(map(here.__getitem__, keys))
        except BaseException:
            self.release(keys)
            raise

    def release(self, keys: Iterable[BlockKey]) -> None:
        """The caller is done with blocks that it loaded: they may be evicted."""
        self._placement.unpin(keys)

    def hold(self, keys: Iterable[BlockKey]) -> None:
        """One more pin for blocks on level 0, for whoever goes on using what it loaded or stored; counts as no use."""
        here, arrivals = self.levels[0].slots, self._placement.arrivals
        for key in keys:
            assert key in here, "only blocks on level 0 are held there"
            assert key not in arrivals, "a block on its way is loaded first"
            self._placement.pin([key])

    def prefetch(self, keys: Sequence[BlockKey], *, is_guess: bool = False) -> list[BlockKey]:
        """Start bringing blocks that will be needed; returns those that could be started or are on level 0 already.

        A block whose transfer starts here is pinned until it is first used or given up with ``cancel_prefetch``. Takes
        the first keys for which there is room. Blocks that may not be needed (``is_guess``) come after all others.
        Raises KeyError for a block that was never stored.
        """
        here = self.levels[0].slots
        self._forget_failures(keys)
        wanted = [key for key in dict.fromkeys(keys) if key not in here]
        for unknown in self._placement.unknown(wanted):
            raise KeyError(unknown)
        if len(wanted) > self.levels[0].pool.num_free:
            wanted = wanted[: self.room]
        if wanted:
            # Nobody needs these blocks yet: whoever does will meet the error, if it is still there.
            self._placement.pin(wanted)
            self._placement.claims.update(wanted)
            try:
                self._placement.fetch(wanted, Priority.GUESS if is_guess else Priority.PREFETCH)
            except BaseException as error:
                for key in wanted:
                    self._placement.unclaim(key)
                if not isinstance(error, WorldError):
                    raise
        return [key for key in keys if key in here]

    def forecast(self, step: int, expected: Iterable[tuple[BlockKey, Expected]]) -> None:
        """Tell the policy of level 0 what is expected from ``step`` on; see EvictionPolicy."""
        self.levels[0].policy.forecast(step, expected)

    def cancel_prefetch(self, keys: Iterable[BlockKey]) -> None:
        """Give up the claim on blocks that were prefetched and will not be used; their slots may be taken.

        What has not come yet of a guess does not come any more.
        """
        for key in keys:
            if key in self._placement.claims:
                self._placement.unclaim(key)
                self._placement.call_off(key)

    def prepare_store(self, keys: Sequence[BlockKey], prefer: int | None = None) -> list[int]:
        """Slots on level 0 for new blocks, pinned and for the caller alone to write. All or nothing.

        ``prefer`` is the first slot that would suit the caller. Raises TierFullError, and what stopped a block that had
        to make room: TransferError.
        """
        placement, level = self._placement, self.levels[0]
        new = dict.fromkeys(keys, 1)
        assert len(new) == len(keys), "a block is stored once"
        assert placement.is_new(new.keys()), "a block is stored once"
        placement.has_stored = True
        slots = placement.allocate(0, keys, prefer)
        level.slots.update(zip(keys, slots, strict=True))
        level.policy.insert_all(new)
        placement.pinned.update(new)
        placement.opened.update(new)
        return slots

    def prepare_again(self, keys: Sequence[BlockKey]) -> list[int]:
        """As ``prepare_store``, of blocks that a level below holds: whoever asks makes them again rather than wait.

        The copies below stay. All or nothing; raises what ``prepare_store`` does.
        """
        assert self.levels[0].slots.keys().isdisjoint(keys), "a block that is there is not made again"
        assert not self._placement.unknown(list(keys)), "a block that nobody holds is not made again"
        return self._placement.make_again(keys)

    def sources(self, keys: Iterable[BlockKey]) -> list[int]:
        """The level from which each of these blocks would be loaded; all of them are below level 0."""
        return self._placement.sources_of(keys)

    def complete_store(self, keys: Sequence[BlockKey]) -> None:
        """Blocks are wholly written: they may be read by others and leave level 0.

        When level 0 runs short they are copied down at once, so that evicting them later costs nothing.
        """
        placement, level = self._placement, self.levels[0]
        assert placement.opened.issuperset(keys), "complete_store without prepare_store"
        placement.opened.difference_update(keys)
        level.pool.publish_all(list(map(level.slots.__getitem__, keys)))
        placement.unpin(keys)
        if len(self.levels) > 1 and level.pool.num_free < 2 * len(keys):
            with suppress(WorldError):  # nothing is lost: whoever needs the room will be told
                placement.copy_ahead(keys)

    def reopen(self, key: BlockKey) -> int:
        """Make a stored block writable again, as by ``prepare_store``: on level 0, pinned, and without copies below."""
        placement = self._placement
        assert key not in placement.backed, "a block of the backing tier is read only"
        assert key not in placement.opened, "a block is reopened once"
        self.prepare_load([key])
        (slot,) = self.complete_load([key])
        placement.settle([key])
        for index in range(1, len(self.levels)):
            placement.drop_copy(index, key)
        self.levels[0].pool.reopen(slot)
        placement.opened.add(key)
        return slot

    def share(self, keys: Iterable[BlockKey]) -> None:
        """One more owner for each block."""
        shares = self._placement.shares
        for key in keys:
            shares[key] = shares.get(key, 0) + 1

    def is_shared(self, key: BlockKey) -> bool:
        return key in self._placement.shares

    def discard(self, keys: Iterable[BlockKey]) -> None:
        """One owner fewer for each block; without owners it is forgotten on every level, without write-back."""
        placement, shares = self._placement, self._placement.shares
        for key in keys:
            if key in shares:
                shares[key] -= 1
                if not shares[key]:
                    del shares[key]
                continue
            pins = (key in placement.claims) + (key in placement.opened)
            assert placement.pinned.get(key, 0) == pins, "discarded while somebody reads it"
            placement.unclaim(key)
            if key in placement.opened:
                placement.opened.remove(key)
                placement.unpin([key])
            placement.settle([key])
            for index in range(len(self.levels)):
                placement.drop_copy(index, key)
            placement.backed.pop(key, None)

    def check(self) -> None:
        """Raise AssertionError if the books of any level do not add up."""
        self._placement.check()

    def _forget_failures(self, keys: Iterable[BlockKey]) -> None:
        """A prefetch that failed is no reason not to try again."""
        arrivals = self._placement.arrivals
        if arrivals:
            for key in keys:
                if key in arrivals and arrivals[key].error is not None:
                    self._placement.abandon(key)


__all__ = ["Level", "LookupResult", "ManagerStats", "Mover", "PendingTransfer", "TieredMemoryManager"]
