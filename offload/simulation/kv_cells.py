"""Cells of a scenario of requests on tiers: one policy of keys and values each."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import offload
from offload.simulation.axes import SWEPT
from offload.simulation.cell import Cell, FileDigests, RunCell, digest
from offload.simulation.facts import setting_facts
from offload.simulation.scenario_file import read_scenario
from offload.simulation.sources import sources_of
from offload.simulation.values import near
from simulators.kv_trace.base import KVTrace, Request
from simulators.kv_trace.formats import find_trace
from simulators.kv_trace.generate import ZipfWorkload
from simulators.kv_trace.statistics import kv_trace_statistics
from simulators.model_costs import ModelShape
from simulators.profile import HardwareProfile
from simulators.scenario import BOUND, Experiment, Scenario
from tiers.block import BlockKey, PrefixBlockKey
from tiers.eviction.registry import find_policy
from tiers.eviction.third_party import classes_of


@dataclass(frozen=True, slots=True)
class KVSetting:
    """See Setting. The trace of ``scenario`` is empty: a workload is a list of requests."""

    scenario: Scenario

    @property
    def shape(self) -> ModelShape:
        return self.scenario.shape

    @property
    def profile(self) -> HardwareProfile:
        return self.scenario.profile

    @property
    def tiers(self) -> Mapping[str, int]:
        return self.scenario.tiers

    def experiment(self, workload: list[Request]) -> RunCell:
        experiment = Experiment(replace(self.scenario, trace=self._trace(workload)))
        return lambda head: experiment.run(head["policy"])

    def example(self) -> Mapping[str, Any]:
        trace = ZipfWorkload(num_requests=2, document_blocks=1, block_tokens=self.scenario.trace.block_tokens).trace()
        room = dict.fromkeys(self.tiers, 8 * self.scenario.block_nbytes)
        roomy = replace(self.profile, memory_nbytes=None)  # whether the weights fit is not asked here
        small = replace(self.scenario, trace=trace, tiers=room, profile=roomy, policies=("lru",))
        return {**Experiment(small).run("lru"), "tiers": room}

    def workload_figures(self, workload: list[Request]) -> Mapping[str, float]:
        statistics = kv_trace_statistics(self._trace(workload))
        requests = max(1, statistics.requests)
        figures = asdict(statistics) | {
            "blocks_per_request": statistics.accesses / requests,
            "output_per_request": statistics.output_tokens / requests,
        }
        return {name: float(value) for name, value in figures.items() if type(value) in (int, float)}

    def run_settings(self) -> Mapping[str, Any]:
        """Of the policy nothing: that of a run is one of experts, not of keys and values."""
        names = {"device": "device_memory", "host": "host_memory", "nvme": "nvme_memory"}
        sizes = {**self.tiers, "device": self.tiers["device"] + self.shape.nbytes}
        return {**{names[level]: nbytes for level, nbytes in sizes.items()}, "batch": self.scenario.batch}

    def _trace(self, requests: Iterable[Request]) -> KVTrace:
        trace = self.scenario.trace
        return KVTrace(trace.format, trace.block_tokens, iter(requests))


class KVCells:
    """See CellMaker. All settings have one workload, since no list may stand in it."""

    swept = SWEPT
    deciders = ("policy",)
    keys: type[BlockKey] = PrefixBlockKey

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files = FileDigests()
        self._requests: list[Request] | None = None

    def cells(self, settings: Mapping[str, Any], *, with_bounds: bool = False) -> list[Cell]:
        """See CellMaker."""
        scenario = read_scenario(settings, self.path)
        for policy in scenario.policies:
            find_policy(policy, self.keys)
        inputs = [offload.__version__, repr(scenario.profile), repr(scenario.shape), *self.workload_print(settings)]
        found = []
        for policy in (*scenario.policies, *[BOUND] * with_bounds):
            head = {**setting_facts(settings, scenario), "policy": policy}
            found.append(Cell(settings, head, digest(head, inputs, self._sources(policy))))
        return found

    def in_bytes(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """See CellMaker."""
        return settings

    def setting(self, settings: Mapping[str, Any]) -> KVSetting:
        """See CellMaker."""
        scenario = read_scenario(settings, self.path)
        empty = KVTrace(scenario.trace.format, scenario.trace.block_tokens, iter(()))
        return KVSetting(replace(scenario, trace=empty))

    def workload(self, settings: Mapping[str, Any]) -> list[Request]:
        """The requests."""
        if self._requests is None:
            self._requests = list(read_scenario(settings, self.path).trace.requests)
        return self._requests

    def workload_print(self, settings: Mapping[str, Any]) -> list[str]:
        """See CellMaker."""
        workload = settings["workload"]
        trace = find_trace(Path(near(self.path.parent, workload["trace"]))) if "trace" in workload else None
        return [json.dumps(workload), self._files.of(trace) if trace else ""]

    def _sources(self, policy: str) -> list[str]:
        """Of the modules of its class and of those that it inherits from, and of what those import."""
        if policy == BOUND:
            return []
        return [self._files.of(file) for file in sources_of(classes_of(find_policy(policy)))]
