"""The moves behind the manager: blocks that are brought to level 0, and the books of all levels.

Between ``fetch`` and ``land`` a slot is in flight.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tiers.block import BlockKey
from tiers.chunks import Move
from tiers.link import Priority
from tiers.residency import Entry, Level
from tiers.room import Room
from tiers.tier import Tier


@dataclass(slots=True)
class Placement(Room):
    """Moves of all blocks, up to level 0 and back."""

    def fetch(self, keys: Sequence[BlockKey], priority: Priority) -> None:
        """Allocate on level 0 and start transfers; every key gets a pin."""
        entries = [self.entries[key] for key in keys]
        for key, entry in zip(keys, entries, strict=True):
            self.pin(key, entry)  # before room is made: no policy may choose their copies below
        try:
            slots = self.allocate(0, len(keys))
        except BaseException:
            for key, entry in zip(keys, entries, strict=True):
                self.unpin(key, entry)
            raise
        batches: dict[BlockKey | int, list[tuple[BlockKey, Entry, Move]]] = {}
        for key, entry, slot in zip(keys, entries, slots, strict=True):
            source, source_slot = entry.highest_copy()
            # Weights are large and used as they come, and a guess can be called off alone: each moves by itself. Other
            # blocks may be neighbours, which are read together.
            is_alone = self.backing is not None or priority is Priority.GUESS
            batches.setdefault(key if is_alone else source, []).append((key, entry, Move(source_slot, slot)))
        try:
            for batch in batches.values():
                self._set_out(batch, priority)
        except BaseException:  # a link that cannot be opened; what has set out arrives, wanted by nobody
            for key, entry, slot in zip(keys, entries, slots, strict=True):
                self.unpin(key, entry)
                if entry.slots[0] is None:
                    self.levels[0].pool.free(slot)
            raise

    def _set_out(self, batch: Sequence[tuple[BlockKey, Entry, Move]], priority: Priority) -> None:
        """Start one transfer, to level 0, of blocks that come from the same tier."""
        source, _ = batch[0][1].highest_copy()
        moves = [move for _, _, move in batch]
        transfer = self.mover.submit(self._tier(source), self.levels[0].tier, moves, priority)
        policy = self.levels[0].policy
        insert = policy.insert if priority is Priority.DEMAND else policy.insert_ahead
        for key, entry, move in batch:
            entry.slots[0], entry.arrival = move.target_slot, transfer
            # What it costs to bring a block back grows with the number of levels that it has to climb.
            insert(key, float(source))
            if source < len(self.levels):
                self.levels[source].policy.touch(key)

    def call_off(self, key: BlockKey, entry: Entry) -> None:
        """Stop the transfer of a guess that nobody waits for, and forget it; anything else goes on."""
        transfer = entry.arrival
        if transfer is None or transfer.is_done or entry.pins or transfer.priority is not Priority.GUESS:
            return
        self.mover.cancel(transfer)
        if transfer.error is not None:  # else all of it is under way, and as good as here
            self.abandon(key, entry)

    def check(self) -> None:
        """Raise AssertionError if the books of any level do not add up."""
        for index, level in enumerate(self.levels):
            self._check_level(index, level)
        for key, entry in self.entries.items():
            assert (key in self.pinned) == (entry.pins > 0), f"{key}: pins {entry.pins}"
            assert entry.pins >= entry.is_prefetched + entry.is_open, f"{key}: pins {entry.pins}"
            assert any(slot is not None for slot in entry.slots), f"{key}: no copy left"
        assert all(key in self.entries for key in self.pinned), "a block that is gone is pinned"

    def _check_level(self, index: int, level: Level) -> None:
        level.pool.check()
        here = {key: entry for key, entry in self.entries.items() if entry.slots[index] is not None}
        stranded = [slot for _, at, slot in self._stranded if at == index]
        slots = {entry.slots[index] for entry in here.values()}.union(stranded)
        used, known = level.pool.num_used, len(level.policy)
        assert len(slots) == len(here) + len(stranded), f"level {index}: two blocks in one slot"
        assert len(slots) == used, f"level {index}: {len(here)} blocks, {len(stranded)} stranded, {used} slots used"
        assert known == len(here), f"level {index}: policy knows {known} of {len(here)} blocks"
        for key, entry in here.items():
            slot = entry.slots[index]
            assert slot is not None
            assert key in level.policy, f"level {index}: policy does not know {key}"
            assert level.pool.is_resident(slot) == entry.is_readable(index), f"level {index}: {key} in slot {slot}"

    def _tier(self, index: int) -> Tier:
        if index < len(self.levels):
            return self.levels[index].tier
        assert self.backing is not None
        return self.backing
