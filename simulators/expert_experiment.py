"""Experts in virtual time: a trace of routing on a machine, with the manager, the waves and the prefetcher that ship.

What computing takes is the roofline of the machine's profile, and no software costs anything; what moves takes what
the links give. Keys and values lie on the device with all weights but the routed experts. Those have slots on the
device; some have copies in host memory, as many of each layer as of another, and all lie on the drive.
"""

from typing import Any

import numpy as np

from prefetch.expert_predictor import ExpertPredictor
from simulators.belady import belady_misses
from simulators.expert_bound import fewest_fetches, soonest
from simulators.expert_costs import ExpertCosts
from simulators.expert_figures import Totals, row_of
from simulators.expert_setting import ExpertSetting, copied_keys, levels_of, seconds_of
from simulators.expert_timed_replay import ExpertReplay
from simulators.expert_trace import ExpertTrace
from simulators.expert_visits import Pass, keys_of, passes_of
from simulators.link_costs import routes_of
from simulators.modelled_link import LinkUse
from tiers.block import ExpertKey
from tiers.errors import BudgetError, InvalidOptionError, TraceError

BELADY = "belady"
"""The row of what no policy can hit without fetching ahead: it knows the future."""
PERFECT = "perfect prefetch"
"""The row of what no predictor can beat while tokens are decoded: no fetch more than Belady's, all of them hidden."""


class ExpertExperiment:
    """What the rows of a setting have in common; each can be had alone, and is the same every time.

    Raises TraceError for a trace of another model or without decode steps, BudgetError where a token's experts of one
    layer do not fit, InvalidOptionError for what the machine cannot hold or does not have.
    """

    def __init__(self, setting: ExpertSetting) -> None:
        check_trace(setting.trace, setting.costs)
        self._setting = setting
        self._passes = passes_of(setting.trace)
        self._decode = decode = [place for place, one in enumerate(self._passes) if one.is_decode]
        if not decode:
            raise TraceError(f"the trace of '{setting.trace.model}' has no decode step; record one of more new tokens")
        _check_room(setting, max(len(visit) for place in decode for visit in self._passes[place].visits))
        _check_memory(setting, self._passes)
        misses = belady_misses(self._passes, setting.slots["device"])
        # Where all fit, all are there before the first prompt.
        all_fit = setting.slots["device"] >= setting.costs.num_experts
        self._misses = 0 if all_fit else sum(misses[place] for place in decode)
        self._accesses = sum(len(visit) for place in decode for visit in self._passes[place].visits)
        self._compute_s = sum(self._seconds(self._passes[place]) for place in decode)

    def row(self, policy: str, predictor: ExpertPredictor | None = None) -> dict[str, Any]:
        """Figures of the decode steps; prompts warm the cache, and ``ttft_s`` is the mean of what they take."""
        replay = ExpertReplay(self._setting, self._passes, policy, predictor)
        return self._row(replay.run(), replay.prompts_s)

    def belady(self) -> dict[str, Any]:
        """Of the policy that knows the future and fetches nothing ahead."""
        return {**self.row("batch_plan"), "hit_ratio": self._best, "belady_gap": 0.0}

    def perfect(self) -> dict[str, Any]:
        """Of fetches that all come while something else is computed, as far as the links can bring them by then.

        A predictor that fetched for later while a prompt is taken might have moved some of it before.
        """
        setting, nbytes = self._setting, self._setting.costs.expert_nbytes
        routes = routes_of(setting.profile, levels_of(setting))
        ways = {name: keys for name, keys in self._ways().items() if keys}
        seconds = {name: routes[name].seconds(1, nbytes) for name in ways}
        slots = setting.slots["device"]
        alone = {name: fewest_fetches(self._passes, slots, self._decode, keys) for name, keys in ways.items()}
        fewest = {name: min(count, self._misses) for name, count in alone.items()}
        counts = soonest(self._misses, fewest, seconds)
        links = {name: LinkUse(count * nbytes, count * seconds[name], count) for name, count in counts.items()}
        moving_s = max(use.busy_s for use in links.values())
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

    def _ways(self) -> dict[str, set[ExpertKey]]:
        """The experts that come over each link."""
        keys = [key for layer in keys_of(self._setting.trace) for key in layer]
        copied = set(copied_keys(keys, self._setting.slots.get("host", 0)))
        return {"host->device": copied, "nvme->device": set(keys) - copied}

    @property
    def _best(self) -> float:
        return 1.0 - self._misses / self._accesses

    @property
    def _num_decoded(self) -> int:
        return sum(one.num_requests for one in self._passes if one.is_decode)

    def _seconds(self, one: Pass) -> float:
        return sum(seconds_of(self._setting, one))

    def _row(self, totals: Totals, ttft_s: float | None) -> dict[str, Any]:
        setting = self._setting
        routes = routes_of(setting.profile, levels_of(setting))
        drive = {"nvme": setting.costs.num_experts * setting.costs.expert_nbytes}
        row = row_of(totals, setting.profile, {**setting.tiers, **drive}, routes, setting.price)
        return {**row, "ttft_s": ttft_s, "belady_gap": round(self._best - row["hit_ratio"], 12) + 0.0}


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
