"""Weight groups that do not stay: which comes next to the few slots that they pass through. Keys only, no bytes.

The runtime's streamer and the simulator's replay of a generation drive this same object.
"""

from collections.abc import Sequence

from prefetch.budget import PrefetchBudget
from prefetch.next_layer import NextLayerPredictor
from prefetch.prefetcher import Prefetcher
from tiers.block import BlockKey
from tiers.errors import TierFullError
from tiers.manager import TieredMemoryManager


class WeightStream:
    """``schedule`` lists the groups in the order of their use in a pass; ``acquire`` and ``release`` frame each use.

    Level 0 of ``manager`` has the slots, of ``slot_nbytes`` each. Reading ahead goes on over the end of a pass: the
    first groups of the next token follow the last.
    """

    def __init__(self, manager: TieredMemoryManager, schedule: Sequence[BlockKey], slot_nbytes: int) -> None:
        self.manager = manager
        self._schedule = schedule
        self._step_of = {key: step for step, key in enumerate(schedule)}
        num_slots = manager.levels[0].pool.num_slots
        predictor: NextLayerPredictor[BlockKey] = NextLayerPredictor(self._keys_of_step, len(schedule), num_slots)
        budget: PrefetchBudget[BlockKey] = PrefetchBudget(None, slot_nbytes, max_blocks=num_slots)
        self._prefetcher = Prefetcher(manager, predictor, budget)
        self._held: set[BlockKey] = set()

    def acquire(self, key: BlockKey) -> int:
        """The slot of a group, once it is there. Raises TransferError, CorruptBlockError."""
        for left in list(self._held):  # by a forward pass that was interrupted; modules run one after the other
            self._held.remove(left)
            self.manager.release([left])
        try:
            self.manager.prepare_load([key])
        except TierFullError:
            # A pass that ended early, or that left groups out: what was read ahead for it is in the way.
            self.stop()
            self.manager.prepare_load([key])
        self._prefetcher.used([key])
        (slot,) = self.manager.complete_load([key])
        self._held.add(key)
        return slot

    def release(self, key: BlockKey) -> None:
        """The group has been used; its slot goes to one that comes later. Nothing happens if it was not acquired."""
        if key not in self._held:
            return
        self._held.remove(key)
        self.manager.release([key])
        self._prefetcher.advance(self._step_of[key])

    def start(self) -> None:
        """Begin reading the first groups before anybody asks."""
        self._prefetcher.advance(len(self._schedule) - 1)

    def stop(self) -> None:
        """Give up what was read ahead."""
        self._prefetcher.stop()

    def _keys_of_step(self, step: int) -> Sequence[BlockKey]:
        return (self._schedule[step],)
