"""The device's cache of experts: slots, the manager over them, and the way from a router's choice to weights."""

from collections import deque
from collections.abc import Generator, Mapping, Sequence

from offload.experts.layout import ExpertLayout, ExpertWeights
from tiers.block import ExpertKey
from tiers.errors import TierFullError
from tiers.eviction.registry import make_policy
from tiers.manager import Level, LookupResult, TieredMemoryManager
from tiers.memory_tier import MemoryTier
from tiers.pool import BlockPool
from tiers.transfer import TransferEngine
from tiers.weight_tier import WeightGroup, WeightTier


class ExpertStore:
    """``slots`` of the device for the experts in ``groups``, which the checkpoint ``source`` backs.

    An expert that is asked for and not there is fetched while those that are there compute. ``policy`` is a name out of
    ``tiers.eviction.registry``.
    """

    def __init__(
        self,
        engine: TransferEngine,
        source: WeightTier,
        groups: Sequence[WeightGroup],
        slots: int,
        policy: str = "expected_use",
    ) -> None:
        assert slots > 0, "an expert needs a slot to be used"
        self.slot_nbytes = max(group.nbytes for group in groups)
        self.arena = MemoryTier("device", slots, self.slot_nbytes)
        self.pool = BlockPool(slots)
        self.manager = TieredMemoryManager(engine, [Level(self.arena, self.pool, make_policy(policy, slots))], source)
        self.manager.adopt({group.key: source.slot_of(group.key) for group in groups})
        self._layouts: dict[ExpertKey, ExpertLayout] = {}
        self._views: dict[ExpertKey, tuple[int, ExpertWeights]] = {}

    def describe(self, layouts: Mapping[ExpertKey, ExpertLayout]) -> None:
        """Say where the weights of some experts lie in their slots."""
        self._layouts.update(layouts)

    def visit(self, keys: Sequence[ExpertKey]) -> Generator[tuple[ExpertKey, ExpertWeights]]:
        """Each of these experts once, with its weights, which stay where they are until the next is asked for.

        Those on the device come first, while the others are fetched, as many at a time as there is room for. Raises
        TransferError, CorruptBlockError.
        """
        manager = self.manager
        here = deque(key for key in keys if manager.lookup(key) is LookupResult.HIT)
        missing = deque(key for key in keys if key not in set(here))
        held: deque[ExpertKey] = deque()
        try:
            manager.prepare_load(here)
            held.extend(here)
            while held or missing:
                self._start(missing, held)
                key = held.popleft()  # complete_load gives the pin back by itself if it fails
                (slot,) = manager.complete_load([key])
                held.appendleft(key)
                yield key, self._weights(key, slot)
                held.popleft()
                manager.release([key])
        finally:
            manager.release(held)

    def close(self) -> None:
        """The slots' memory goes with the last tensor that looks into it."""
        self.arena.close()

    def _start(self, missing: deque[ExpertKey], held: deque[ExpertKey]) -> None:
        """Begin to fetch as many as there is room for; the first of all if nothing else is held."""
        while missing:
            try:
                self.manager.prepare_load([missing[0]])
            except TierFullError:
                if not held:
                    raise
                return
            held.append(missing.popleft())

    def _weights(self, key: ExpertKey, slot: int) -> ExpertWeights:
        known = self._views.get(key)
        if known is None or known[0] != slot:
            known = self._views[key] = (slot, self._layouts[key].views(self.arena.view(slot)))
        return known[1]
