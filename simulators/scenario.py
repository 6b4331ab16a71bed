"""One experiment: requests, a machine, a model, tiers and policies; and a row of results for each policy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefetch.load_gate import Gate
from simulators.belady import ideal_hit_ratio
from simulators.kv_replay import KVReplayResult, replay_requests
from simulators.kv_serving import Arrivals, serve_requests
from simulators.kv_trace.base import KeyTable, KVTrace
from simulators.link_costs import routes_of
from simulators.model_costs import ModelShape, RooflineCosts
from simulators.modelled_link import VirtualClock
from simulators.modelled_mover import EmptyTier, ModelledMover
from simulators.profile import HardwareProfile
from tiers.errors import BudgetError, InvalidOptionError, TraceError
from tiers.eviction.batch_plan import SupportsPlan
from tiers.eviction.registry import find_policy, make_policy
from tiers.manager import Level, TieredMemoryManager
from tiers.pool import BlockPool

LEVELS = ("device", "host", "nvme")
BOUND = "belady"
"""The row of what no policy can beat: as many slots as all tiers have, all on the device, and the future known."""

PERCENTILES = (0, 1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 99.9, 100)
"""Of the times to the first token and in the queue, enough to draw their distribution."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """``tiers`` are the bytes for keys and values on each level; the weights are on the device besides them."""

    trace: KVTrace
    """Read once."""
    profile: HardwareProfile
    shape: ModelShape
    tiers: dict[str, int]
    policies: Sequence[str]
    gate: Gate = Gate.LOAD
    batch: int = 1
    arrivals: Arrivals = Arrivals.CLOSED
    speed: float = 1.0
    """How many times as fast as recorded requests come, where they come when the trace says."""

    def __post_init__(self) -> None:
        if self.speed != 1.0 and self.arrivals is Arrivals.CLOSED:
            raise InvalidOptionError(
                f"speed: {self.speed:g} is of no use where arrivals are closed; add arrivals: trace"
            )
        if "device" not in self.tiers:
            raise InvalidOptionError("tiers: 'device' is missing; say how many bytes of it hold keys and values")
        for name, nbytes in self.tiers.items():
            if nbytes < self.block_nbytes:
                raise InvalidOptionError(
                    f"tiers: '{name}' has {nbytes:,} bytes, less than one block of {self.trace.block_tokens} tokens; "
                    f"give it at least {self.block_nbytes:,}"
                )

    @property
    def block_nbytes(self) -> int:
        """Of all layers."""
        return self.trace.block_tokens * self.shape.kv_nbytes_per_token


def run_scenario(scenario: Scenario, progress: Callable[[int, int], None] = lambda *_: None) -> list[dict[str, Any]]:
    """A row for each policy and one for the bound; the same scenario gives the same rows.

    Raises TraceError, BudgetError, and InvalidOptionError for an unknown policy or a link that the profile lacks.
    """
    experiment = Experiment(scenario)
    names = [*dict.fromkeys(scenario.policies), BOUND]
    rows = []
    for done, name in enumerate(names):
        progress(done, len(names))
        rows.append(experiment.run(name))
    progress(len(names), len(names))
    return rows


class Experiment:
    """What the rows of a scenario have in common, so that each can be had alone. Raises what ``run_scenario`` does."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        for name in scenario.policies:
            find_policy(name)  # before the work
        self._requests = requests = list(scenario.trace.requests)
        if not requests:
            raise TraceError("the trace has no requests; name another one")
        names = [name for name in LEVELS if name in scenario.tiers]
        self._levels = levels = {name: scenario.tiers[name] // scenario.block_nbytes for name in names}
        self._table = KeyTable()
        self._uses = [key for request in requests for key in self._table.keys(request.blocks)]
        self._best = ideal_hit_ratio([block for one in requests for block in one.blocks], sum(levels.values()))
        largest = max(len(request.blocks) for request in requests)
        if largest > levels["device"]:
            wanted, given = largest * scenario.block_nbytes, scenario.tiers["device"]
            message = f"tiers: 'device' has {given:,} bytes; the longest prompt needs {wanted:,}; give it as many"
            raise BudgetError(message, wanted_bytes=wanted, available_bytes=given)

    def run(self, name: str) -> dict[str, Any]:
        """The row of one of the scenario's policies, or of ``BOUND``."""
        if name == BOUND:
            return self._row(name, self._replay({"device": sum(self._levels.values())}, "batch_plan"))
        return self._row(name, self._replay(self._levels, name))

    def _replay(self, slots: dict[str, int], policy: str) -> KVReplayResult:
        scenario = self._scenario
        mover = ModelledMover(VirtualClock(), routes_of(scenario.profile, tuple(slots)))
        levels = [
            Level(EmptyTier(name, n, scenario.block_nbytes), BlockPool(n), make_policy(policy, n))
            for name, n in slots.items()
        ]
        planned = levels[0].policy
        if isinstance(planned, SupportsPlan):
            planned.plan(self._uses)
        trace = KVTrace(scenario.trace.format, scenario.trace.block_tokens, iter(self._requests))
        manager = TieredMemoryManager(mover, levels, is_cache=True)
        costs = RooflineCosts(scenario.shape, scenario.profile, scenario.batch)
        if scenario.arrivals is Arrivals.CLOSED:
            return replay_requests(trace, manager, mover, costs, gate=scenario.gate, table=self._table)
        return serve_requests(
            trace,
            manager,
            mover,
            costs,
            batch=scenario.batch,
            speed=scenario.speed,
            gate=scenario.gate,
            table=self._table,
        )

    def _row(self, name: str, result: KVReplayResult) -> dict[str, Any]:
        times, queue = (
            dict(zip(PERCENTILES, np.percentile(seconds, PERCENTILES).tolist(), strict=True))
            for seconds in (result.ttft_s, result.queue_s)
        )
        return {
            "policy": name,
            "hit_ratio": result.hit_ratio,
            "device_hit_ratio": result.device_hits / max(1, result.accesses),
            "prefix_hit_ratio": result.prefix_hits / max(1, result.accesses),
            "tokens_per_s": result.tokens_per_s,
            "ttft_s": times[50],
            "ttft_p90_s": times[90],
            "ttft_p99_s": times[99],
            "ttft_percentiles_s": {str(percent): seconds for percent, seconds in times.items()},
            "queue_s": queue[50],
            "queue_p90_s": queue[90],
            "queue_p99_s": queue[99],
            "queue_percentiles_s": {str(percent): seconds for percent, seconds in queue.items()},
            "bytes": sum(result.link_nbytes.values()),
            "links": result.link_nbytes,
            "stall_s": result.stall_s,
            # Two ways to the same ratio may differ in their last digit.
            "belady_gap": round(self._best - result.hit_ratio, 12) + 0.0,
            "tokens_per_s_without_stall": result.output_tokens / max(1e-12, result.elapsed_s - result.stall_s),
            "recomputed": result.recomputed,
            "elapsed_s": result.elapsed_s,
        }
