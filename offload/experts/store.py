"""The device's cache of experts: slots, the manager over them, and the way from a router's choice to weights."""

import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from itertools import islice, takewhile
from typing import TYPE_CHECKING

from offload.experts.layout import ExpertLayout, ExpertWeights
from prefetch.budget import LinkEstimate, PrefetchBudget
from prefetch.expert_predictor import ExpertPredictor, Routing, RoutingObserver
from prefetch.prefetcher import Prefetcher
from tiers.block import BlockKey, ExpertKey
from tiers.errors import TierFullError
from tiers.eviction.registry import make_policy
from tiers.manager import Level, LookupResult, TieredMemoryManager
from tiers.memory_tier import MemoryTier
from tiers.pool import BlockPool
from tiers.population import Population
from tiers.transfer import TransferEngine
from tiers.weight_tier import WeightGroup, WeightTier

if TYPE_CHECKING:
    from tiers.link import LinkStats

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
        # Where not all experts fit every slot will be used, at the latest by a first prompt, which should not wait.
        self._population = Population(self.arena.buffer) if slots < len(groups) else None
        self.pool = BlockPool(slots)
        self.manager = TieredMemoryManager(engine, [Level(self.arena, self.pool, make_policy(policy, slots))], source)
        self.manager.adopt({group.key: source.slot_of(group.key) for group in groups})
        self.predictor: ExpertPredictor | None = None
        self.observers: list[RoutingObserver] = []
        """Are told what a gate is given and chooses, before those experts are visited; the predictor is one."""
        self._prefetcher: Prefetcher | None = None
        self._budget: PrefetchBudget[BlockKey] | None = None
        self.decision_s = 0.0
        """Time spent on predicting, choosing and bookkeeping; neither on waiting nor on computing."""
        self._engine = engine
        self._visited_at = 0.0
        self._link: LinkStats | None = None
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

    def observe(self, routing: Routing) -> None:
        """Pass on what a gate was given and chose."""
        start = time.perf_counter()
        for observer in self.observers:
            observer.observe(routing)
        self.decision_s += time.perf_counter() - start

    def visit(self, keys: Sequence[ExpertKey]) -> Generator[list[tuple[ExpertKey, ExpertWeights]]]:
        """Each of these experts once, with its weights, which stay where they are until the next are asked for.

        Those that are ready come together: at first what is on the device, while the others are fetched, as many at a
        time as there is room for. Raises TransferError, CorruptBlockError.
        """
        start = self._clock()
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
            while held or missing:
                self._start(missing, held)
                # While slots are short each of them is given back as soon as it can be.
                group = [] if missing else list(takewhile(present.__contains__, held))
                group = group or [held[0]]
                for _ in group:  # complete_load gives the pins back by itself if it fails
                    held.popleft()
                slots = manager.complete_load(group)
                held.extendleft(reversed(group))
                ready = [(key, self._weights(key, slot)) for key, slot in zip(group, slots, strict=True)]
                self.decision_s += self._clock() - start
                yield ready
                start = self._clock()
                for _ in group:
                    held.popleft()
                manager.release(group)
            self.decision_s += self._clock() - start
        finally:
            manager.release(held)

    def close(self) -> None:
        """The slots' memory goes with the last tensor that looks into it."""
        if self._population:
            self._population.stop()
        self.arena.close()

    def _start(self, missing: deque[ExpertKey], held: deque[ExpertKey]) -> None:
        """Begin to fetch as many as there is room for; the first of all if nothing else is held."""
        most = len(missing)
        while missing:
            room = self.manager.room
            if held and not room:
                return
            some = list(islice(missing, max(1, min(most, room))))
            try:
                self.manager.prepare_load(some)
            except TierFullError:
                if len(some) > 1:
                    most = 1  # some of the room is not free yet
                elif held:
                    return
                # What was fetched ahead and is not wanted now may be all that is in the way.
                elif not (self._prefetcher and self._prefetcher.stop()):
                    raise
                continue
            for key in some:
                missing.popleft()
                held.append(key)

    def _clock(self) -> float:
        """Seconds; it stands still while somebody waits for a transfer."""
        return time.perf_counter() - self._engine.stall_s

    def _note_pace(self) -> None:
        """What the link has delivered so far, and how long a layer takes now."""
        self._link = self._link or self._engine.links.get("nvme->device")
        now, link = time.perf_counter(), self._link
        if self._budget and link and link.busy_s:
            step_s = 0.75 * self._budget.link.step_s + 0.25 * min(now - self._visited_at, 1.0)
            self._budget.link = LinkEstimate(link.nbytes / link.busy_s, step_s)
        self._visited_at = now

    def _weights(self, key: ExpertKey, slot: int) -> ExpertWeights:
        known = self._views.get(key)
        if known is None or known[0] != slot:
            known = self._views[key] = (slot, self._layouts[key].views(self.arena.view(slot)))
        return known[1]
