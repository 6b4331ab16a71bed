"""The device's cache of experts: slots, the manager over them, and the way from a router's choice to weights."""

import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from itertools import islice, takewhile
from typing import TYPE_CHECKING

from offload.arenas import make_arena, slot_bytes
from offload.experts.grouped import StackedSlots, is_grouped
from offload.experts.layout import ExpertLayout, ExpertWeights
from offload.experts.low_copies import LowCopies
from offload.weights.host_copies import host_levels
from prefetch.budget import LinkEstimate, PrefetchBudget
from prefetch.expert_predictor import ExpertPredictor, Routing, RoutingObserver
from prefetch.prefetcher import Prefetcher
from tiers.block import BlockKey, ExpertKey
from tiers.copier import as_tensor
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
    ``tiers.eviction.registry``; ``host_slots`` is how many experts the host keeps a copy of.
    """

    def __init__(
        self,
        engine: TransferEngine,
        source: WeightTier,
        groups: Sequence[WeightGroup],
        slots: int,
        policy: str = "expected_use",
        *,
        device: str = "cpu",
        host_slots: int = 0,
    ) -> None:
        assert slots > 0, "an expert needs a slot to be used"
        self.slot_nbytes = max(group.nbytes for group in groups)
        self.arena = make_arena(device, slots, self.slot_nbytes)
        # Where not all experts fit every slot will be used, at the latest by a first prompt, which should not wait.
        self._population: Population | None = None
        if slots < len(groups) and isinstance(self.arena, MemoryTier):
            self._population = Population(self.arena.buffer)
        self.pool = BlockPool(slots)
        self.host = host_levels(device, host_slots, self.slot_nbytes)
        level = Level(self.arena, self.pool, make_policy(policy, slots))
        self.manager = TieredMemoryManager(engine, [level, *self.host], source)
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
        self._link: LinkStats | None = None
        self._layouts: dict[ExpertKey, ExpertLayout] = {}
        self._views: dict[ExpertKey, tuple[int, ExpertWeights]] = {}
        self._stacks: dict[int, StackedSlots | None] = {}
        self._stays_at: dict[int, int] = {}

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

    def stack(self, layer: int) -> StackedSlots | None:
        """All slots as one tensor for the experts of a layer, where products are grouped on this device."""
        if layer not in self._stacks:
            layouts = [layout for key, layout in self._layouts.items() if key.layer == layer]
            slots = StackedSlots.over(as_tensor(self.arena.buffer), self.pool.num_slots, layouts)
            if slots is not None and layer in self._stays_at:
                slots = slots.part(self._stays_at[layer], len(layouts))
            self._stacks[layer] = slots if slots is not None and is_grouped(slots.down) else None
        return self._stacks[layer]

    def stays(self, layer: int) -> bool:
        """Whether the experts of a layer are in consecutive slots, by their number, and never leave."""
        return layer in self._stays_at

    def bring_all(self, on_arrival: Callable[[int], None]) -> None:
        """Every expert to a slot of its own, for good; ``on_arrival`` is told the bytes. Raises TransferError.

        Then no layer has to ask where its experts are, and to know which ones are wanted need not be waited for.
        """
        layers: dict[int, list[ExpertKey]] = {}
        for key in sorted(self._layouts, key=lambda key: (key.layer, key.expert)):
            layers.setdefault(key.layer, []).append(key)
        for layer, keys in layers.items():
            self.manager.prepare_load(keys)
            slots = self.manager.complete_load(keys)
            self.manager.release(keys)
            assert slots == list(range(slots[0], slots[0] + len(keys))), "an empty arena is filled from its start"
            self._stays_at[layer] = slots[0]
            on_arrival(len(keys) * self.slot_nbytes)
        self.manager.stats.misses = 0

    def visit(self, keys: Sequence[ExpertKey]) -> Generator[list[tuple[ExpertKey, ExpertWeights]]]:
        """Each of these experts once, with its weights, which stay where they are until the next are asked for.

        Those that are ready come together: at first what is on the device, while the others are fetched, as many at a
        time as there is room for. Raises TransferError, CorruptBlockError.
        """
        for wave in self.waves(keys):
            yield [(key, self._weights(key, slot)) for key, slot in wave]

    def waves(self, keys: Sequence[ExpertKey], *, all_at_once: bool = False) -> Generator[list[tuple[ExpertKey, int]]]:
        """As ``visit``, with slots in place of weights.

        What had to be fetched comes expert by expert or, with ``all_at_once``, as few times as there is room for.
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
                group = group or (list(held) if all_at_once else [held[0]])
                for _ in group:  # complete_load gives the pins back by itself if it fails
                    held.popleft()
                slots = manager.complete_load(group)
                held.extendleft(reversed(group))
                self.decision_s += self._clock() - start
                yield list(zip(group, slots, strict=True))
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
        for level in self.host:
            level.tier.close()

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
        self._link = self._link or self._engine.links.get("host->device" if self.host else "nvme->device")
        now, link = time.perf_counter(), self._link
        if self._budget and link and link.busy_s:
            step_s = 0.75 * self._budget.link.step_s + 0.25 * min(now - self._visited_at, 1.0)
            self._budget.link = LinkEstimate(link.nbytes / link.busy_s, step_s)
        self._visited_at = now

    def _weights(self, key: ExpertKey, slot: int) -> ExpertWeights:
        known = self._views.get(key)
        if known is None or known[0] != slot:
            known = self._views[key] = (slot, self._layouts[key].views(slot_bytes(self.arena, slot)))
        return known[1]
