"""The moves behind the manager that bring blocks to level 0. Between ``fetch`` and ``land`` a slot is in flight."""

from collections.abc import Sequence
from dataclasses import dataclass

from tiers.block import BlockKey
from tiers.chunks import Move
from tiers.link import Priority
from tiers.room import Room
from tiers.tier import Tier


@dataclass(slots=True)
class Placement(Room):
    """Moves of all blocks, up to level 0 and back."""

    def fetch(self, keys: Sequence[BlockKey], priority: Priority) -> None:
        """Allocate on level 0 and start transfers; every key gets a pin. KeyError for a block that nobody holds."""
        copies = [self.highest_copy(key) for key in keys]
        slots = self._allocate_pinned(keys)
        batches: dict[BlockKey | int, list[tuple[BlockKey, int, Move]]] = {}
        for key, (source, source_slot), slot in zip(keys, copies, slots, strict=True):
            # Weights are large and used as they come, and a guess can be called off alone: each moves by itself. Other
            # blocks may be neighbours, which are read together.
            is_alone = self.backing is not None or priority is Priority.GUESS
            batches.setdefault(key if is_alone else source, []).append((key, source, Move(source_slot, slot)))
        try:
            for batch in batches.values():
                self._set_out(batch, priority)
        except BaseException:  # a link that cannot be opened; what has set out arrives, wanted by nobody
            for key, slot in zip(keys, slots, strict=True):
                self.unpin(key)
                if key not in self.levels[0].slots:
                    self.levels[0].pool.free(slot)
            raise

    def make_again(self, keys: Sequence[BlockKey]) -> list[int]:
        """Slots on level 0 for blocks that a level below holds, pinned and open."""
        slots = self._allocate_pinned(keys)
        self.levels[0].slots.update(zip(keys, slots, strict=True))
        self.levels[0].policy.insert_all(keys)
        self.opened.update(keys)
        return slots

    def _allocate_pinned(self, keys: Sequence[BlockKey]) -> list[int]:
        for key in keys:
            self.pin(key)  # before room is made: no policy may choose their copies below
        try:
            return self.allocate(0, keys)
        except BaseException:
            for key in keys:
                self.unpin(key)
            raise

    def _set_out(self, batch: Sequence[tuple[BlockKey, int, Move]], priority: Priority) -> None:
        """Start one transfer, to level 0, of blocks that come from the same tier."""
        _, source, _ = batch[0]
        moves = [move for _, _, move in batch]
        transfer = self.mover.submit(self._tier(source), self.levels[0].tier, moves, priority)
        policy, slots = self.levels[0].policy, self.levels[0].slots
        insert = policy.insert if priority is Priority.DEMAND else policy.insert_ahead
        for key, _, move in batch:
            slots[key], self.arrivals[key] = move.target_slot, transfer
            # What it costs to bring a block back grows with the number of levels that it has to climb.
            insert(key, float(source))
            if source < len(self.levels):
                self._touch_below(source, key)

    def _touch_below(self, index: int, key: BlockKey) -> None:
        level = self.levels[index]
        if key in level.leaving:
            del level.leaving[key]
            level.policy.insert(key)
        else:
            level.policy.touch(key)

    def call_off(self, key: BlockKey) -> None:
        """Stop the transfer of a guess that nobody waits for, and forget it; anything else goes on."""
        transfer = self.arrivals.get(key)
        if transfer is None or transfer.is_done or key in self.pinned or transfer.priority is not Priority.GUESS:
            return
        self.mover.cancel(transfer)
        if transfer.error is not None:  # else all of it is under way, and as good as here
            self.abandon(key)

    def _tier(self, index: int) -> Tier:
        if index < len(self.levels):
            return self.levels[index].tier
        assert self.backing is not None
        return self.backing
