"""The device's cache of experts: slots, the manager over them, and the way from a router's choice to weights."""

import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence

from offload.experts.layout import ExpertLayout, ExpertWeights
from offload.experts.low_copies import LowCopies
from prefetch.budget import LinkEstimate, PrefetchBudget
from prefetch.expert_predictor import ExpertPredictor, Routing, RoutingObserver
from prefetch.prefetcher import Prefetcher
from tiers.block import BlockKey, ExpertKey
from tiers.errors import TierFullError
from tiers.eviction.registry import make_policy
from tiers.manager import Level, LookupResult, TieredMemoryManager
from tiers.memory_tier import MemoryTier
from tiers.pool import BlockPool
from tiers.transfer import TransferEngine
from tiers.weight_tier import WeightGroup, WeightTier

_LEAST_PROBABILITY = 0.5
"""Guesses that come true less often are not worth the slots that they take; the link they have only when it is free."""


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
        self.predictor: ExpertPredictor | None = None
        self.observers: list[RoutingObserver] = []
        """Are told what a gate is given and chooses, before those experts are visited; the predictor is one."""
        self.low_copies: LowCopies | None = None
        """Where the copies in a lower precision may be used."""
        self._prefetcher: Prefetcher | None = None
        self._budget: PrefetchBudget[BlockKey] | None = None
        self.decision_s = 0.0
        """Time spent on predicting, choosing and bookkeeping; neither on waiting nor on computing."""
        self._engine = engine
        self._source = source
        self._visited_at = 0.0
        self._layouts: dict[ExpertKey, ExpertLayout] = {}
        self._views: dict[ExpertKey, tuple[int, ExpertWeights]] = {}

    def describe(self, layouts: Mapping[ExpertKey, ExpertLayout]) -> None:
        """Say where the weights of some experts lie in their slots."""
        self._layouts.update(layouts)

    def predict_with(self, predictor: ExpertPredictor) -> None:
        """From now on fetch ahead what ``predictor`` names, as much as the link was seen to deliver in a step."""
        self.predictor = predictor
        self.observers.append(predictor)
        most = max(1, self.pool.num_slots // 8)
        link = LinkEstimate(bytes_per_s=1e9, step_s=5e-3)
        self._budget = PrefetchBudget(link, self.slot_nbytes, most, least_probability=_LEAST_PROBABILITY)
        self._prefetcher = Prefetcher(self.manager, predictor, self._budget)

    def use_low_copies(self, groups: Sequence[WeightGroup], *, always: bool) -> LowCopies:
        """From now on ``groups``, the experts once more in a lower precision, stand in for them; see LowCopies."""
        assert all(group.nbytes <= self.slot_nbytes for group in groups), "a low copy fits where the exact one does"
        slots = {group.key: self._source.slot_of(group.key) for group in groups if isinstance(group.key, ExpertKey)}
        self.low_copies = LowCopies(self.manager, slots, always=always)
        self.observers.append(self.low_copies.rule)
        return self.low_copies

    def observe(self, routing: Routing) -> None:
        """Pass on what a gate was given and chose."""
        start = time.perf_counter()
        for observer in self.observers:
            observer.observe(routing)
        self.decision_s += time.perf_counter() - start

    def visit(self, keys: Sequence[ExpertKey]) -> Generator[tuple[ExpertKey, ExpertWeights]]:
        """Each of these experts once, with its weights, which stay where they are until the next is asked for.

        Those on the device come first, while the others are fetched, as many at a time as there is room for. Raises
        TransferError, CorruptBlockError.
        """
        start = time.perf_counter()
        manager = self.manager
        here = [key for key in keys if manager.lookup(key) is LookupResult.HIT]
        present = set(here)
        missing = deque(key for key in keys if key not in present)
        held: deque[ExpertKey] = deque()
        try:
            if self._prefetcher and keys:
                self._note_pace()
                self._prefetcher.used(keys)
            manager.prepare_load(here)
            held.extend(here)
            if self._prefetcher and keys:
                self._prefetcher.foresee(keys[0].layer)
            self._start(missing, held)
            if self._prefetcher and keys:
                self._prefetcher.request()
            slots = dict(zip(here, manager.complete_load(here), strict=True))
            while held or missing:
                self._start(missing, held)
                key = held.popleft()
                slot = slots.get(key)
                self.decision_s += time.perf_counter() - start
                if slot is None:
                    (slot,) = manager.complete_load([key])  # which gives the pin back by itself if it fails
                held.appendleft(key)
                yield key, self._weights(key, slot)
                start = time.perf_counter()
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
                if held:
                    return
                # What was fetched ahead and is not wanted now may be all that is in the way.
                if not (self._prefetcher and self._prefetcher.stop()):
                    raise
                continue
            held.append(missing.popleft())

    def _note_pace(self) -> None:
        """What the link has delivered so far, and how long a layer takes now."""
        now, link = time.perf_counter(), self._engine.links.get("nvme->device")
        if self._budget and link and link.busy_s:
            step_s = 0.75 * self._budget.link.step_s + 0.25 * min(now - self._visited_at, 1.0)
            self._budget.link = LinkEstimate(link.nbytes / link.busy_s, step_s)
        self._visited_at = now

    def _weights(self, key: ExpertKey, slot: int) -> ExpertWeights:
        known = self._views.get(key)
        if known is None or known[0] != slot:
            known = self._views[key] = (slot, self._layouts[key].views(self.arena.view(slot)))
        return known[1]
