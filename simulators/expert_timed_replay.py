"""One policy with one predictor in virtual time, by the manager, the waves and the prefetcher that ship."""

from collections.abc import Mapping

from prefetch.expert_predictor import ExpertPredictor
from prefetch.expert_waves import ExpertWaves
from simulators.expert_figures import Totals, totals_between
from simulators.expert_setting import ExpertSetting, copied_keys, counts_of, levels_of, resident_seconds
from simulators.expert_visits import Pass, keys_of, routing_at, tokens_of
from simulators.expert_watch import CancellingMover, WatchedManager
from simulators.link_costs import capacities_of, loads_of_decoding, routes_of
from simulators.modelled_link import LinkUse, VirtualClock
from simulators.modelled_mover import EmptyTier
from simulators.virtual_mover import VirtualPace
from tiers.block import ExpertKey
from tiers.eviction.batch_plan import SupportsPlan
from tiers.eviction.registry import make_policy
from tiers.manager import Level
from tiers.pool import BlockPool


class ExpertReplay:
    """Raises as the manager and, of a policy or predictor of somebody else's, PolicyError."""

    def __init__(
        self, setting: ExpertSetting, passes: list[Pass], policy: str, predictor: ExpertPredictor | None
    ) -> None:
        self._setting, self._passes, self._costs = setting, passes, setting.costs
        profile, slots = setting.profile, setting.slots
        routes = routes_of(profile, levels_of(setting))
        self._mover = CancellingMover(
            VirtualClock(), routes, capacities_of(profile), decoding=loads_of_decoding(profile)
        )
        keys = [key for layer in keys_of(setting.trace) for key in layer]
        self._manager = self._make_manager(slots, keys, policy)
        self._waves = ExpertWaves(self._manager, self._costs.expert_nbytes, VirtualPace(self._mover, self._uses))
        self._predictor = None
        if slots["device"] >= len(keys):
            self._manager.prepare_load(keys)
            self._manager.complete_load(keys)
            self._manager.release(keys)
        elif predictor is not None:
            self._predictor = predictor
            self._waves.predict_with(predictor)
        self._computed_s = 0.0
        self.prompts_s = 0.0
        """Mean of a request's."""

    def run(self) -> Totals:
        """What the decode steps come to."""
        total, prompt_s, requests = Totals(), 0.0, set[int]()
        for place, one in enumerate(self._passes):
            before = self._totals()
            self._forward(one)
            if place + 1 == len(self._passes):
                self._manager.end()
            spent = totals_between(before, self._totals())
            if one.is_decode:
                total = total + spent
                total.tokens += one.num_requests
            else:
                prompt_s += one.num_requests * spent.elapsed_s  # each of them waits for all of it
            requests.update(self._setting.trace.requests[one.tokens].tolist())
        self.prompts_s = prompt_s / len(requests)
        return total

    def _make_manager(self, slots: Mapping[str, int], keys: list[ExpertKey], policy: str) -> WatchedManager:
        nbytes = self._costs.expert_nbytes
        levels = [
            Level(EmptyTier(name, count, nbytes), BlockPool(count), make_policy(policy, count))
            if name == "device"
            else Level(EmptyTier(name, count, nbytes), BlockPool(count), make_policy("lru", count))
            for name, count in slots.items()
            if count
        ]
        planned = levels[0].policy
        if isinstance(planned, SupportsPlan):
            planned.plan([key for one in self._passes for visit in one.visits for key in visit])
        manager = WatchedManager(self._mover, levels, EmptyTier("nvme", len(keys), nbytes))
        manager.adopt({key: slot for slot, key in enumerate(keys)})
        copied = copied_keys(keys, slots.get("host", 0))
        if copied:
            manager.stage(copied)
        return manager

    def _forward(self, one: Pass) -> None:
        trace, waves = self._setting.trace, self._waves
        dense_s, *_, head_s = resident_seconds(self._setting, one)
        if self._predictor:
            self._predictor.begin(tokens_of(trace, one), one.position)
        places = {layer: place for place, layer in enumerate(trace.layers.tolist())}
        for layer in range(self._setting.shape.layers):
            self._compute(dense_s)
            place = places.get(layer)
            if place is None:
                continue
            if self._predictor:
                self._predictor.observe(routing_at(trace, one, place))
            counts = counts_of(trace, one, place)
            for wave in waves.waves(one.visits[place]):
                self._compute(sum(self._costs.expert_s(counts[key.expert]) for key, _ in wave))
            self._manager.settle_ahead()
        self._compute(head_s)

    def _uses(self) -> list[LinkUse]:
        """Of the links into the device."""
        return [use for name, use in self._mover.links.items() if name.endswith("->device")]

    def _compute(self, seconds: float) -> None:
        self._computed_s += self._mover.decode(seconds)

    def _totals(self) -> Totals:
        stats, mover, manager = self._manager.stats, self._mover, self._manager
        return Totals(
            elapsed_s=mover.clock.now_s,
            compute_s=self._computed_s,
            stall_s=mover.stall_s,
            hits=stats.hits + stats.pending_hits,
            late_hits=stats.pending_hits,
            prefetch_hits=manager.prefetch_hits,
            misses=stats.misses,
            wasted_nbytes=manager.wasted_nbytes,
            links=mover.used(),
        )
