"""The device's cache of experts: slots, the manager over them, and the way from a router's choice to weights."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING

from offload.arenas import arena_bytes, make_arena, slot_bytes
from offload.experts.grouped import StackedSlots, why_not_grouped
from offload.experts.layout import ExpertLayout, ExpertWeights
from offload.experts.low_copies import LowCopies
from offload.experts.packed.products import products_on
from offload.experts.packed.slots import PackedSlots
from offload.experts.stack import SlotStack
from offload.weights.host_copies import host_levels
from prefetch.expert_predictor import ExpertPredictor, Routing, RoutingObserver
from prefetch.expert_waves import ExpertWaves
from tiers.block import ExpertKey
from tiers.copier import as_tensor
from tiers.eviction.registry import make_policy
from tiers.manager import Level, TieredMemoryManager
from tiers.memory_tier import MemoryTier
from tiers.pool import BlockPool
from tiers.population import Population
from tiers.transfer import TransferEngine
from tiers.weight_tier import STORED, WeightGroup, WeightTier

if TYPE_CHECKING:
    from tiers.link import LinkStats


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
        if slots < len(groups) and type(self.arena) is MemoryTier:
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
        self._waves = ExpertWaves(
            self.manager, self.slot_nbytes, _WallPace(engine, "host->device" if self.host else "nvme->device")
        )
        self._source = source
        self._layouts: dict[ExpertKey, ExpertLayout] = {}
        self._views: dict[ExpertKey, tuple[int, ExpertWeights]] = {}
        self.flaws: set[str] = set()
        """What was slower than it could be on a GPU, and why; one line each."""
        self._stacks: dict[int, dict[str, SlotStack]] = {}
        self._settled: dict[int, SlotStack] = {}

    @property
    def decision_s(self) -> float:
        """Seconds spent on predicting, choosing and bookkeeping; neither on waiting nor on computing."""
        return self._waves.decision_s

    def describe(self, layouts: Mapping[ExpertKey, ExpertLayout]) -> None:
        """Say where the weights of some experts lie in their slots."""
        self._layouts.update(layouts)

    def predict_with(self, predictor: ExpertPredictor) -> None:
        """From now on fetch ahead what ``predictor`` names, as much as the link was seen to deliver in a step."""
        self.predictor = predictor
        self.observers.append(predictor)
        self._waves.predict_with(predictor)

    def use_low_copies(self, groups: Sequence[WeightGroup], *, always: bool) -> LowCopies:
        """From now on ``groups``, the experts once more in a lower precision, stand in for them; see LowCopies."""
        assert all(group.nbytes <= self.slot_nbytes for group in groups), "a low copy fits where the exact one does"
        slots = {group.key: self._source.slot_of(group.key) for group in groups if isinstance(group.key, ExpertKey)}
        self.low_copies = LowCopies(self.manager, slots, always=always)
        self.observers.append(self.low_copies.rule)
        return self.low_copies

    def observe(self, routing: Routing) -> None:
        """Pass on what a gate was given and chose."""
        with self._waves.deciding():
            for observer in self.observers:
                observer.observe(routing)

    def stacks(self, layer: int) -> Mapping[str, SlotStack]:
        """All slots as one stack for the experts of a layer, by precision; empty where products are not grouped."""
        if layer not in self._stacks:
            self._stacks[layer] = self._make_stacks(layer)
        return self._stacks[layer]

    def settled(self, layer: int) -> SlotStack | None:
        """The stack of a layer whose experts, by their number, are all that is in it and never leave; or None."""
        return self._settled.get(layer)

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
            stacks = list(self.stacks(layer).values())
            if len(stacks) == 1:
                self._settled[layer] = stacks[0].part(slots[0], len(keys))
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
        return self._waves.waves(keys, all_at_once=all_at_once)

    def close(self) -> None:
        """The slots' memory goes with the last tensor that looks into it."""
        if self._population:
            self._population.stop()
        self.arena.close()
        for level in self.host:
            level.tier.close()

    def _make_stacks(self, layer: int) -> dict[str, SlotStack]:
        layouts: dict[str, list[ExpertLayout]] = {}
        for key, layout in self._layouts.items():
            if key.layer == layer:
                layouts.setdefault(key.precision, []).append(layout)
        arena, slots = as_tensor(arena_bytes(self.arena)), self.pool.num_slots
        products = products_on(arena.device)
        stacks: dict[str, SlotStack] = {}
        for precision, some in layouts.items():
            if precision == STORED:
                stored = StackedSlots.over(arena, slots, some)
                why_not = why_not_grouped(stored.down) if stored else "their rows do not lie as torch wants them"
                if stored and not why_not:
                    stacks[precision] = stored
                elif arena.is_cuda:
                    self.flaws.add(f"one product after the other: {why_not}")
            elif products is not None:
                stacks[precision] = PackedSlots.over(arena, slots, some, products)
        return stacks if len(stacks) == len(layouts) else {}

    def _weights(self, key: ExpertKey, slot: int) -> ExpertWeights:
        known = self._views.get(key)
        if known is None or known[0] != slot:
            known = self._views[key] = (slot, self._layouts[key].views(slot_bytes(self.arena, slot)))
        return known[1]


class _WallPace:
    """Wall time, and the counters of a link of the engine. See ``prefetch.expert_waves.Pace``."""

    def __init__(self, engine: TransferEngine, link: str) -> None:
        self._engine = engine
        self._name = link
        self._link: LinkStats | None = None

    def now_s(self) -> float:
        return time.perf_counter()

    def waited_s(self) -> float:
        return self._engine.stall_s

    def delivered(self) -> tuple[int, float]:
        self._link = self._link or self._engine.links.get(self._name)
        return (self._link.nbytes, self._link.busy_s) if self._link else (0, 0.0)
