"""The moves behind the manager that bring blocks to level 0. Between ``fetch`` and ``land`` a slot is in flight."""

from collections.abc import Sequence
from dataclasses import dataclass

from tiers.block import BlockKey
from tiers.chunks import Moves
from tiers.link import Priority
from tiers.room import Room
from tiers.tier import Tier


@dataclass(slots=True)
class Placement(Room):
    """Moves of all blocks, up to level 0 and back."""

    def fetch(self, keys: Sequence[BlockKey], priority: Priority) -> None:
        """Start bringing blocks that the caller has pinned: before room is made, so that no policy takes their copies.

        KeyError for a block that nobody holds.
        """
        # Weights are large and used as they come, and a guess can be called off alone: each moves by itself. Other
        # blocks may be neighbours, which are read together.
        is_alone = self.backing is not None or priority is Priority.GUESS
        batches: dict[BlockKey | int, tuple[int, list[BlockKey]]] = {}
        for key, source in zip(keys, self.sources_of(keys), strict=True):
            batches.setdefault(key if is_alone else source, (source, []))[1].append(key)
        targets = dict(zip(keys, self.allocate(0, keys), strict=True))
        try:
            for source, batch in batches.values():
                self._set_out(batch, source, list(map(targets.__getitem__, batch)), priority)
        except BaseException:  # a link that cannot be opened; what has set out arrives, wanted by nobody
            self.levels[0].pool.free_all([slot for key, slot in targets.items() if key not in self.levels[0].slots])
            raise

    def make_again(self, keys: Sequence[BlockKey]) -> list[int]:
        """Slots on level 0 for blocks that a level below holds, pinned and open."""
        self.pin(keys)
        try:
            slots = self.allocate(0, keys)
        except BaseException:
            self.unpin(keys)
            raise
        self.levels[0].slots.update(zip(keys, slots, strict=True))
        self.levels[0].policy.insert_all(keys)
        self.opened.update(keys)
        return slots

    def _set_out(self, keys: Sequence[BlockKey], source: int, targets: Sequence[int], priority: Priority) -> None:
        """Start one transfer, to slots of level 0, of blocks that come from the same tier."""
        slots = list(map(self.copies()[source].__getitem__, keys))
        if source < len(self.levels):
            # A copy on its way down has its source above it until it has arrived.
            assert all(map(self.levels[source].pool.is_resident, slots)), "the only copy below has not arrived"
        here = self.levels[0]
        transfer = self.mover.submit(self._tier(source), here.tier, Moves(slots, targets), priority)
        here.slots.update(zip(keys, targets, strict=True))
        self.arrivals.update(dict.fromkeys(keys, transfer))
        # What it costs to bring a block back grows with the number of levels that it has to climb.
        cost = float(source)
        if priority is Priority.DEMAND:
            here.policy.insert_all(keys, cost)
        else:
            for key in keys:
                here.policy.insert_ahead(key, cost)
        if source < len(self.levels):
            self._touch_below(source, keys)

    def _touch_below(self, index: int, keys: Sequence[BlockKey]) -> None:
        policy, leaving = self.levels[index].policy, self.levels[index].leaving
        for key in keys:
            if key in leaving:
                del leaving[key]
                policy.insert(key)
            else:
                policy.touch(key)

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
