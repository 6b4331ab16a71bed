"""Room on the levels: who has to leave for whom, and what becomes of the last copy of a block.

Where blocks must not be lost, a last copy is written to a level below, and its slot waits for that. In a cache nobody
waits for a drive: levels between the first and the last write back what their policies would part with next ahead of
time, as much as came at once before, and what has not been written when its slot is wanted is dropped.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import filterfalse, repeat
from typing import Any

from tiers.block import BlockKey
from tiers.books import AllBut, Books
from tiers.chunks import Moves
from tiers.errors import TierFullError, WorldError
from tiers.eviction.choose import pick
from tiers.link import Priority
from tiers.residency import Landing

Parts = list[tuple[int, list[int]]]
"""Levels and slots there."""


@dataclass(slots=True)
class Room(Books):
    """See the module."""

    def allocate(self, index: int, keys: Sequence[BlockKey], prefer: int | None = None) -> list[int]:
        """Take slots of a level for blocks; others may have to leave. Raises TierFullError, or what stopped those."""
        level, n = self.levels[index], len(keys)
        self.reclaim()
        if n > level.pool.num_free:
            level.policy.announce(keys)
            self._make_room(index, n)
        if n > level.pool.num_free:
            # Those that left were being filled by a drive that does not answer, and may still be.
            raise TierFullError(level.tier.name, wanted_slots=n, available_slots=level.pool.num_free)
        return level.pool.allocate(n, prefer)

    def copy_down(self, index: int, keys: Sequence[BlockKey]) -> list[tuple[int, Landing]]:
        """Start copying blocks to levels below; returns to which, and what can be waited for.

        In a cache those for which there is no room stay behind. Raises TierFullError, or what stopped those that had to
        leave.
        """
        if not keys:
            return []
        source = self.levels[index]
        # In the order of their slots: neighbours stay neighbours, so that they come back in one request.
        there = list(map(source.slots.__getitem__, keys))
        order = sorted(there)
        if order != there:
            at = dict(zip(there, keys, strict=True))
            keys = list(map(at.__getitem__, order))
        parts = self._allocate_below(index, keys)
        started: list[tuple[int, Landing]] = []
        first = 0
        while parts:
            below, slots = parts[0]
            stop = first + len(slots)
            target = self.levels[below]
            moves = Moves(order[first:stop], slots)
            try:
                transfer = self.mover.submit(source.tier, target.tier, moves, Priority.WRITE_BACK)
            except BaseException:  # a link that cannot be opened
                self._free_parts(parts)
                raise
            del parts[0]
            landing = Landing(transfer, index, dict(zip(keys[first:stop], slots, strict=True)))
            target.slots.update(landing.slots)
            target.landings.append(landing)
            target.policy.insert_all(landing.slots)
            started.append((below, landing))
            self.stats.write_backs += len(slots)
            first = stop
        return started

    def copy_ahead(self, keys: Sequence[BlockKey]) -> None:
        """Start copying blocks of level 0 down before anybody needs their slots. Raises what ``copy_down`` does."""
        self._write_ahead()
        self.copy_down(0, self.last_copies(0, keys))
        self._write_ahead()

    def _write_ahead(self) -> None:
        """In a cache: see to it that as many slots between the first and the last level as ever were wanted at once can
        be had without waiting. What is written ahead is of use until then."""
        for index in range(1, len(self.levels) - 1 if self.is_cache else 0):
            level = self.levels[index]
            pool = level.pool
            n = min(level.most_at_once, -(-pool.num_slots // 2)) - pool.num_free - len(level.leaving)
            if n <= 0:
                continue
            # What is itself on its way to the level cannot go on yet.
            victims = level.policy.evict(n, self._pinned_or_moving(level.landings))
            level.leaving.update(dict.fromkeys(victims))
            # Also those that a level above holds: there they may go since there is a copy here.
            for lower in self.levels[index + 1 :]:
                victims = list(filterfalse(lower.slots.__contains__, victims))
            self.copy_down(index, victims)

    def _make_room(self, index: int, wanted: int) -> None:
        """Evict until ``wanted`` slots of a level are free.

        The policy chooses, as long as the levels below can take its choice; else only what has a copy elsewhere goes.
        """
        if self.is_cache:
            self._vacate(index, wanted)
            self._evict(index, wanted)
            return
        if index + 1 == len(self.levels):
            self._evict_spare(index, wanted)
            return
        try:
            self._evict(index, wanted)
        except TierFullError as full:
            try:
                self._evict_spare(index, wanted)
            except TierFullError:
                raise full from None

    def _evict_spare(self, index: int, wanted: int) -> None:
        """As ``_evict``, of copies that are not the last ones."""
        # Where all blocks are backed no copy is the last; to find that out block by block would take long.
        self._evict(index, wanted, self.spare_copies(index) if self.has_stored else None)

    def _evict(self, index: int, wanted: int, spare: set[BlockKey] | None = None) -> None:
        """What the policy chooses out of the ``spare`` ones, or of all that are not pinned, gives up its slots."""
        level = self.levels[index]
        n = wanted - level.pool.num_free
        if n <= 0:
            return
        victims: list[BlockKey] = []
        if spare is None:
            victims = level.policy.evict(n, self.pinned)
        elif n <= len(spare):  # else the policy would look at all others first
            victims = level.policy.evict(n, AllBut(level.slots, spare))
        if not victims:
            room = len(level.policy) - sum(map(level.policy.__contains__, self.pinned)) if spare is None else len(spare)
            raise TierFullError(level.tier.name, wanted_slots=wanted, available_slots=level.pool.num_free + room)
        try:
            self._write_back(index, victims)
        except BaseException:
            level.policy.insert_all([key for key in victims if key in level.slots])
            raise
        self._give_up(index, victims)

    def _give_up(self, index: int, keys: Sequence[BlockKey]) -> None:
        """Free the slots of copies that have left their policy."""
        level = self.levels[index]
        # Those that failed to come are gone already.
        level.pool.free_all([slot for slot in map(level.slots.pop, keys, repeat(None)) if slot is not None])
        self.stats.evictions += len(keys)
        if self.is_cache and self.shares:
            for key in self.last_copies(index, keys):
                self.shares.pop(key, None)

    def _vacate(self, index: int, wanted: int) -> None:
        """Take the slots of copies that were to leave, the first ones first, but for those that are being written."""
        level = self.levels[index]
        n = wanted - level.pool.num_free
        if n <= 0 or not level.leaving:
            return
        sinking = (
            landing for lower in self.levels[index + 1 :] for landing in lower.landings if landing.source == index
        )
        busy = self._pinned_or_moving(sinking)
        busy.update(self.arrivals)
        ready = pick(level.leaving, n, busy)
        for key in ready:
            del level.leaving[key]
        self._give_up(index, ready)

    def _pinned_or_moving(self, landings: Iterable[Landing]) -> dict[BlockKey, Any]:
        busy: dict[BlockKey, Any] = self.pinned.copy()
        for landing in landings:
            busy.update(landing.slots)
        return busy

    def _write_back(self, index: int, victims: Sequence[BlockKey]) -> None:
        """See to it that each victim has a readable copy on another level than ``index``, unless it may be dropped."""
        self.settle(victims, index)
        if self.is_cache and index > 0:
            return
        last_copies = self.last_copies(index, victims)
        if not last_copies:
            return
        # Pinned for a moment: a clean victim lives on in a copy below, which must not make room for another victim.
        clean = dict.fromkeys(set(victims).difference(last_copies), 1)
        self.pinned.update(clean)
        try:
            with suppress(*[WorldError] * self.is_cache):
                for below, landing in self.copy_down(index, last_copies):
                    self.land_below(below, landing)
        finally:
            for key in clean:
                del self.pinned[key]

    def _allocate_below(self, index: int, keys: Sequence[BlockKey]) -> Parts:
        """Levels below, and their slots, for blocks in this order; TierFullError if there are not as many.

        The next level that has slots free for all takes all; where none has, the lowest ones that can make room. In a
        cache what was used last is kept near: each level makes room for it, from the next one down.
        """
        below = range(index + 1, len(self.levels))
        order: Iterable[int] = below
        if not self.is_cache:
            self.reclaim()
            free = [lower for lower in below if self.levels[lower].pool.num_free >= len(keys)]
            order = free or reversed(below)
        parts: Parts = []
        full: TierFullError | None = None
        try:
            for lower in order:
                if not keys:
                    break
                level = self.levels[lower]
                level.most_at_once = max(level.most_at_once, len(keys))
                try:
                    slots = self._allocate_some(lower, keys)
                except TierFullError as error:
                    full = error
                    continue
                parts.append((lower, slots))
                keys = keys[len(slots) :]
        except BaseException:
            self._free_parts(parts)
            raise
        if keys and not self.is_cache:
            self._free_parts(parts)
            raise full or TierFullError(self.levels[index].tier.name, wanted_slots=len(keys), available_slots=0)
        return parts

    def _free_parts(self, parts: Parts) -> None:
        for lower, slots in parts:
            self.levels[lower].pool.free_all(slots)

    def _allocate_some(self, index: int, keys: Sequence[BlockKey]) -> list[int]:
        """As ``allocate``, for the first of the keys where there is no room for all."""
        try:
            return self.allocate(index, keys)
        except TierFullError as full:
            if not full.available_slots:
                raise
            return self.allocate(index, keys[: full.available_slots])
