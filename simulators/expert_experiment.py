"""Experts in virtual time: a trace of routing on a machine, with the manager, the waves and the prefetcher that ship.

What computing takes is the roofline of the machine's profile, and no software costs anything; what moves takes what
the links give. Keys and values lie on the device with all weights but the routed experts. Those have slots on the
device; some have copies in host memory, as many of each layer as of another, and all lie on the drive.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prefetch.expert_predictor import ExpertPredictor
from prefetch.expert_waves import ExpertWaves
from simulators.belady import belady_misses
from simulators.expert_costs import ExpertCosts
from simulators.expert_figures import Totals, row_of, totals_between
from simulators.expert_trace import ExpertTrace
from simulators.expert_visits import Pass, keys_of, passes_of, routing_at, tokens_of
from simulators.expert_watch import CancellingMover, WatchedManager
from simulators.link_costs import capacities_of, loads_of_decoding, routes_of
from simulators.model_costs import ModelShape
from simulators.modelled_link import LinkUse, VirtualClock
from simulators.modelled_mover import EmptyTier
from simulators.profile import HardwareProfile
from simulators.running_costs import PriceTerms
from tiers.block import ExpertKey
from tiers.errors import BudgetError, InvalidOptionError, TraceError
from tiers.eviction.batch_plan import SupportsPlan
from tiers.eviction.registry import make_policy
from tiers.manager import Level
from tiers.pool import BlockPool

BELADY = "belady"
"""The row of what no policy can hit without fetching ahead: it knows the future."""
PERFECT = "perfect prefetch"
"""The row of what no predictor can beat while tokens are decoded: no fetch more than Belady's, all of them hidden."""


@dataclass(frozen=True, slots=True)
class ExpertSetting:
    """``tiers`` are the bytes for experts on ``device`` and, if at all, in ``host`` memory."""

    trace: ExpertTrace
    profile: HardwareProfile
    shape: ModelShape
    tiers: Mapping[str, int]
    price: PriceTerms = field(default_factory=PriceTerms)

    @property
    def costs(self) -> ExpertCosts:
        """Sizes and seconds of the model's parts on the machine."""
        return ExpertCosts(self.shape, self.profile)

    @property
    def slots(self) -> dict[str, int]:
        """Whole experts by level."""
        costs = self.costs
        return {name: min(nbytes // costs.expert_nbytes, costs.num_experts) for name, nbytes in self.tiers.items()}


class ExpertExperiment:
    """What the rows of a setting have in common; each can be had alone, and is the same every time.

    Raises TraceError for a trace of another model or without decode steps, BudgetError where a token's experts of one
    layer do not fit, InvalidOptionError for what the machine cannot hold or does not have.
    """

    def __init__(self, setting: ExpertSetting) -> None:
        check_trace(setting.trace, setting.costs)
        self._setting = setting
        self._passes = passes_of(setting.trace)
        decode = [place for place, one in enumerate(self._passes) if one.is_decode]
        if not decode:
            raise TraceError(f"the trace of '{setting.trace.model}' has no decode step; record one of more new tokens")
        _check_room(setting, max(len(visit) for place in decode for visit in self._passes[place].visits))
        _check_memory(setting, self._passes)
        misses = belady_misses(self._passes, setting.slots["device"])
        self._misses = sum(misses[place] for place in decode)
        self._accesses = sum(len(visit) for place in decode for visit in self._passes[place].visits)
        self._compute_s = sum(self._seconds(self._passes[place]) for place in decode)

    def row(self, policy: str, predictor: ExpertPredictor | None = None) -> dict[str, Any]:
        """Figures of the decode steps; prompts warm the cache, and ``ttft_s`` is the mean of what they take."""
        replay = _Replay(self._setting, self._passes, policy, predictor)
        return self._row(replay.run(), replay.prompts_s)

    def belady(self) -> dict[str, Any]:
        """Of the policy that knows the future and fetches nothing ahead."""
        return {**self.row("batch_plan"), "hit_ratio": self._best, "belady_gap": 0.0}

    def perfect(self) -> dict[str, Any]:
        """Of fetches that all come while something else is computed, as far as the links can bring them by then.

        A predictor that fetched for later while a prompt is taken might have moved some of it before.
        """
        setting, nbytes = self._setting, self._setting.costs.expert_nbytes
        routes = routes_of(setting.profile, _levels(setting))
        host = setting.slots.get("host", 0)
        ways = ["host->device"] * (host > 0) + ["nvme->device"] * (host < setting.costs.num_experts)
        paces = {name: 1.0 / routes[name].seconds(1, nbytes) for name in ways}
        moving_s = self._misses / sum(paces.values())
        links = {}
        for name, pace in paces.items():
            count = round(moving_s * pace)
            links[name] = LinkUse(count * nbytes, moving_s, count)
        elapsed_s = max(self._compute_s, moving_s)
        totals = Totals(
            elapsed_s=elapsed_s,
            compute_s=self._compute_s,
            stall_s=elapsed_s - self._compute_s,
            hits=self._accesses,
            prefetch_hits=self._misses,
            tokens=self._num_decoded,
            links=links,
        )
        return self._row(totals, None) | {"belady_gap": None}

    @property
    def _best(self) -> float:
        return 1.0 - self._misses / self._accesses

    @property
    def _num_decoded(self) -> int:
        return sum(one.num_requests for one in self._passes if one.is_decode)

    def _seconds(self, one: Pass) -> float:
        return sum(_seconds_of(self._setting, one))

    def _row(self, totals: Totals, ttft_s: float | None) -> dict[str, Any]:
        setting = self._setting
        routes = routes_of(setting.profile, _levels(setting))
        drive = {"nvme": setting.costs.num_experts * setting.costs.expert_nbytes}
        row = row_of(totals, setting.profile, {**setting.tiers, **drive}, routes, setting.price)
        return {**row, "ttft_s": ttft_s, "belady_gap": round(self._best - row["hit_ratio"], 12) + 0.0}


class _Replay:
    """One policy with one predictor."""

    def __init__(
        self, setting: ExpertSetting, passes: list[Pass], policy: str, predictor: ExpertPredictor | None
    ) -> None:
        self._setting, self._passes, self._costs = setting, passes, setting.costs
        profile, slots = setting.profile, setting.slots
        routes = routes_of(profile, _levels(setting))
        self._mover = CancellingMover(
            VirtualClock(), routes, capacities_of(profile), decoding=loads_of_decoding(profile)
        )
        keys = [key for layer in keys_of(setting.trace) for key in layer]
        self._manager = self._make_manager(slots, keys, policy)
        self._waves = ExpertWaves(self._manager, self._costs.expert_nbytes, _Pace(self._mover))
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
                prompt_s += spent.elapsed_s
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
        copies = slots.get("host", 0)
        if copies:
            manager.stage([keys[i * len(keys) // copies] for i in range(copies)])
        return manager

    def _forward(self, one: Pass) -> None:
        trace, waves = self._setting.trace, self._waves
        dense_s, *_, head_s = _resident_seconds(self._setting, one)
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
            counts = _counts(trace, one, place)
            for wave in waves.waves(one.visits[place]):
                self._compute(sum(self._costs.expert_s(counts[key.expert]) for key, _ in wave))
            self._manager.settle_ahead()
        self._compute(head_s)

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


class _Pace:
    """Virtual time. See ``prefetch.expert_waves.Pace``."""

    def __init__(self, mover: CancellingMover) -> None:
        self._mover = mover

    def now_s(self) -> float:
        return self._mover.clock.now_s

    def waited_s(self) -> float:
        return self._mover.stall_s

    def delivered(self) -> tuple[int, float]:
        uses = [use for name, use in self._mover.links.items() if name.endswith("->device")]
        return sum(use.nbytes for use in uses), sum(use.busy_s for use in uses)


def check_trace(trace: ExpertTrace, costs: ExpertCosts) -> None:
    """Raises TraceError where a trace is of another model than ``costs``."""
    shape = costs.shape
    found = len(trace.layers), trace.num_experts, trace.experts.shape[2]
    wanted = costs.expert_layers, shape.experts, shape.experts_per_token
    if found != wanted or int(trace.layers.max(initial=0)) >= shape.layers:
        raise TraceError(
            "the trace is of {} layers of {} experts, {} a token; the model has {} layers of {}, {} a token; ".format(
                *found, *wanted
            )
            + "name a trace of this model"
        )


def _levels(setting: ExpertSetting) -> tuple[str, ...]:
    return (*(name for name in ("device", "host") if setting.slots.get(name)), "nvme")


def _check_room(setting: ExpertSetting, most: int) -> None:
    wanted, given = most * setting.costs.expert_nbytes, setting.tiers["device"]
    if setting.slots["device"] < most:
        message = f"tiers: 'device' has {given:,} bytes; one layer of a step needs {most} experts; give it {wanted:,}"
        raise BudgetError(message, wanted_bytes=wanted, available_bytes=given)


def _check_memory(setting: ExpertSetting, passes: list[Pass]) -> None:
    room = setting.profile.memory_nbytes
    if room is None:
        return
    lengths = np.unique(setting.trace.requests, return_counts=True)[1]
    cached = int(lengths.max()) * max(one.num_requests for one in passes) * setting.shape.kv_nbytes_per_token
    others = setting.costs.resident_nbytes + cached
    wanted = setting.slots["device"] * setting.costs.expert_nbytes
    if others + wanted > room:
        left = max(0, room - others)
        raise InvalidOptionError(
            f"tiers: 'device' has {wanted:,} bytes of experts besides {others:,} of other weights, keys and values; "
            f"'{setting.profile.name}' has {room:,}; give it at most {left:,}"
        )


def _counts(trace: ExpertTrace, one: Pass, place: int) -> list[int]:
    """How many tokens of a pass chose each expert."""
    counts: list[int] = np.bincount(trace.experts[one.tokens, place].reshape(-1), minlength=trace.num_experts).tolist()
    return counts


def _resident_seconds(setting: ExpertSetting, one: Pass) -> list[float]:
    """Of one layer without its routed experts, and of the head."""
    tokens = (one.tokens.stop - one.tokens.start) // one.num_requests
    costs = setting.costs
    return [costs.layer_s(one.num_requests, tokens, one.position), costs.head_s(one.num_requests)]


def _seconds_of(setting: ExpertSetting, one: Pass) -> list[float]:
    """Of all parts of a pass."""
    layer_s, head_s = _resident_seconds(setting, one)
    parts = [layer_s * setting.shape.layers, head_s]
    for place, visit in enumerate(one.visits):
        counts = _counts(setting.trace, one, place)
        parts += [setting.costs.expert_s(counts[key.expert]) for key in visit]
    return parts
