"""One experiment: requests, a machine, a model, tiers and policies; and a row of results for each policy."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from prefetch.load_gate import Gate
from simulators.activity import Activity
from simulators.belady import ideal_hits
from simulators.gap import GapFinder
from simulators.host_path import HostMemory, HostPaths, Storage
from simulators.kv_replay import KVReplayResult, ReplayObserver, replay_requests
from simulators.kv_serving import Arrivals, serve_requests
from simulators.kv_trace.base import KeyTable, KVTrace
from simulators.link_costs import capacities_of, loads_of_decoding, routes_of
from simulators.model_costs import ModelShape
from simulators.modelled_link import VirtualClock
from simulators.modelled_mover import EmptyTier, ModelledMover, Route
from simulators.profile import HardwareProfile
from simulators.roofline_costs import RooflineCosts
from simulators.running_costs import PriceTerms, Usage, running_costs
from simulators.watch import ReplayWatch, WatchedClock, WatchedMover
from tiers.block import PrefixBlockKey
from tiers.errors import BudgetError, InvalidOptionError, TraceError
from tiers.eviction.batch_plan import SupportsPlan
from tiers.eviction.registry import find_policy, make_policy
from tiers.manager import Level, TieredMemoryManager
from tiers.pool import BlockPool

LEVELS = ("device", "host", "nvme")
BOUND = "belady"
"""The row of what no policy can beat: as many slots as all tiers have, all on the device, and the future known.

Where requests are answered side by side it is only near to that, see ``kv_serving``.
"""

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
    storage: Storage | None = None
    host_memory: HostMemory | None = None
    price: PriceTerms = field(default_factory=PriceTerms)

    def __post_init__(self) -> None:
        if self.speed != 1.0 and self.arrivals is Arrivals.CLOSED:
            raise InvalidOptionError(
                f"speed: {self.speed:g} is of no use where arrivals are closed; add arrivals: trace"
            )
        HostPaths(self.profile, self.storage, self.host_memory)
        if self.price.given and self.profile.price is None:
            message = f"price: the profile '{self.profile.name}' has no prices; add 'price' to it, or leave price out"
            raise InvalidOptionError(message)
        if "device" not in self.tiers:
            raise InvalidOptionError("tiers: 'device' is missing; say how many bytes of it hold keys and values")
        if self.profile.unified_memory and "host" in self.tiers:
            raise InvalidOptionError(
                f"tiers: 'host': device and host are one memory in the profile '{self.profile.name}'; "
                "give its bytes to 'device'"
            )
        for name, nbytes in self.tiers.items():
            if nbytes < self.block_nbytes:
                raise InvalidOptionError(
                    f"tiers: '{name}' has {nbytes:,} bytes, less than one block of {self.trace.block_tokens} tokens; "
                    f"give it at least {self.block_nbytes:,}"
                )
        self._check_device_memory()

    def _check_device_memory(self) -> None:
        weights, wanted = self.shape.nbytes, self.tiers["device"]
        room = self.profile.memory_nbytes
        if room is None or weights + wanted <= room:
            return
        left = room - weights
        cure = f"give it at most {left:,}" if left >= self.block_nbytes else "choose another machine or a smaller model"
        raise InvalidOptionError(
            f"tiers: 'device' has {wanted:,} bytes besides {weights:,} of weights; '{self.profile.name}' has {room:,}; "
            f"{cure}"
        )

    @property
    def block_nbytes(self) -> int:
        """Of all layers."""
        return self.trace.block_tokens * self.shape.kv_nbytes_per_token


def run_scenario(scenario: Scenario, progress: Callable[[int, int], None] = lambda *_: None) -> list[dict[str, Any]]:
    """A row for each policy and one for the bound, with all that can be seen; the same scenario gives the same rows.

    Raises TraceError, BudgetError, and InvalidOptionError for an unknown policy or a link that the profile lacks.
    """
    experiment = Experiment(scenario)
    names = [*dict.fromkeys(scenario.policies), BOUND]
    rows = []
    for done, name in enumerate(names):
        progress(done, len(names))
        rows.append(experiment.watch(name))
    progress(len(names), len(names))
    return rows


class Experiment:
    """What the rows of a scenario have in common, so that each can be had alone. Raises what ``run_scenario`` does."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        for name in scenario.policies:
            find_policy(name, PrefixBlockKey)  # before the work
        self._requests = requests = list(scenario.trace.requests)
        if not requests:
            raise TraceError("workload: the trace has no requests; name another one")
        names = [name for name in LEVELS if name in scenario.tiers]
        self._levels = levels = {name: scenario.tiers[name] // scenario.block_nbytes for name in names}
        self._table = KeyTable()
        self._uses = [key for request in requests for key in self._table.keys(request.blocks)]
        self._ideal = ideal_hits([block for one in requests for block in one.blocks], sum(levels.values()))
        self._best = sum(self._ideal) / max(1, len(self._ideal))
        largest = max(len(request.blocks) for request in requests)
        if largest > levels["device"]:
            wanted, given = largest * scenario.block_nbytes, scenario.tiers["device"]
            message = f"tiers: 'device' has {given:,} bytes; the longest prompt needs {wanted:,}; give it as many"
            raise BudgetError(message, wanted_bytes=wanted, available_bytes=given)

    def run(self, name: str) -> dict[str, Any]:
        """The row of one of the scenario's policies, or of ``BOUND``."""
        profile = self._scenario.profile
        capacities, decoding = capacities_of(profile), loads_of_decoding(profile)
        mover = ModelledMover(VirtualClock(), self._routes(name), capacities, decoding=decoding)
        return self._row(name, self._replay(self._manager(name, mover), mover), mover)

    def watch(self, name: str) -> dict[str, Any]:
        """The same row, and what a sweep of many rows has no room for.

        ``timeline`` is what Activity gives and the ``slots`` of each level, ``gap`` what GapFinder gives of a policy
        and ``block_bytes``.
        """
        clock = WatchedClock(Activity())
        profile = self._scenario.profile
        mover = WatchedMover(clock, self._routes(name), capacities_of(profile), loads_of_decoding(profile))
        manager = self._manager(name, mover)
        watch = ReplayWatch(manager, clock)
        row = self._row(name, self._replay(manager, mover, watch), mover)
        mover.work_until_now()
        row["timeline"] = clock.activity.as_json(clock.now_s) | {"slots": self._slots(name)}
        if name != BOUND:
            row["gap"] = self._gaps.parts(watch.found) | {"block_bytes": self._scenario.block_nbytes}
        return row

    @cached_property
    def _gaps(self) -> GapFinder:
        return GapFinder(self._requests, self._ideal)

    def _slots(self, name: str) -> dict[str, int]:
        return {"device": sum(self._levels.values())} if name == BOUND else self._levels

    def _routes(self, name: str) -> dict[str, Route]:
        scenario = self._scenario
        paths = HostPaths(scenario.profile, scenario.storage, scenario.host_memory)
        return routes_of(scenario.profile, tuple(self._slots(name)), paths=paths)

    def _running_costs(self, result: KVReplayResult, mover: ModelledMover) -> dict[str, Any]:
        scenario = self._scenario
        usage = Usage(result.elapsed_s, result.compute_s, mover.links, mover.routes)
        return running_costs(scenario.profile, scenario.tiers, usage, result.output_tokens, scenario.price)

    def _manager(self, name: str, mover: ModelledMover) -> TieredMemoryManager:
        policy = "batch_plan" if name == BOUND else name
        levels = [
            Level(EmptyTier(tier, n, self._scenario.block_nbytes), BlockPool(n), make_policy(policy, n))
            for tier, n in self._slots(name).items()
        ]
        planned = levels[0].policy
        if isinstance(planned, SupportsPlan):
            planned.plan(self._uses)
        return TieredMemoryManager(mover, levels, is_cache=True)

    def _replay(
        self, manager: TieredMemoryManager, mover: ModelledMover, observer: ReplayObserver | None = None
    ) -> KVReplayResult:
        scenario = self._scenario
        trace = KVTrace(scenario.trace.format, scenario.trace.block_tokens, iter(self._requests))
        costs = RooflineCosts(scenario.shape, scenario.profile, scenario.batch)
        if scenario.arrivals is Arrivals.CLOSED:
            return replay_requests(
                trace, manager, mover, costs, gate=scenario.gate, table=self._table, observer=observer
            )
        return serve_requests(
            trace,
            manager,
            mover,
            costs,
            batch=scenario.batch,
            speed=scenario.speed,
            gate=scenario.gate,
            table=self._table,
            observer=observer,
        )

    def _row(self, name: str, result: KVReplayResult, mover: ModelledMover) -> dict[str, Any]:
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
            **self._running_costs(result, mover),
        }
