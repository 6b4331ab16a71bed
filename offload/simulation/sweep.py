"""The cells of a sweep: every combination of what a scenario lists, once for each policy and once for the bound."""

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import offload
from offload.config_file import read_config_file
from offload.simulation.axes import Axes, axes_of, combinations
from offload.simulation.facts import scenario_facts, setting_facts
from offload.simulation.scenario_file import find_scenario, near, read_scenario
from simulators.kv_serving import Arrivals
from simulators.kv_trace.formats import find_trace
from simulators.scenario import BOUND, Scenario
from tiers.eviction.registry import find_policy


@dataclass(frozen=True, slots=True)
class Cell:
    """One policy in one setting; ``head`` is how its row begins."""

    settings: Mapping[str, Any]
    """Those of a scenario without lists."""
    head: Mapping[str, Any]
    """``hardware``, ``model``, ``tiers``, ``gate``, ``batch``, ``arrivals``, ``speed`` and ``policy``."""
    fingerprint: str
    """Of everything that the row depends on: settings, profile, model, trace, and the source of the policy."""

    @property
    def key(self) -> str:
        """What tells this cell from the others."""
        return cell_key(self.head)

    def __str__(self) -> str:
        told = {**self.head, "tiers": " + ".join(f"{name} {size:,}" for name, size in self.head["tiers"].items())}
        return ", ".join(f"{key} {value}" for key, value in told.items())


@dataclass(frozen=True, slots=True)
class Sweep:
    """All cells of a scenario file, those of one setting next to each other."""

    path: Path
    facts: Mapping[str, Any]
    axes: Axes
    cells: tuple[Cell, ...]


def read_sweep(given: Path) -> Sweep:
    """Raises InvalidOptionError or TraceError as ``load_scenario`` does, for all combinations, before any runs."""
    path = find_scenario(given)
    settings = read_config_file(path)
    axes = axes_of(settings, path)
    cells: list[Cell] = []
    sources = _Sources(path.parent)
    for one in combinations(settings, axes):
        scenario = read_scenario(one, path)
        inputs = sources.of_scenario(one, scenario)
        for policy in (*scenario.policies, BOUND):
            head = {**setting_facts(one, scenario), "policy": policy}
            cells.append(Cell(one, head, _digest(head, inputs, sources.of_policy(policy))))
    return Sweep(path, scenario_facts(given, settings, is_sweep=True), axes, tuple(cells))


def cell_key(row: Mapping[str, Any]) -> str:
    """The same of a cell's head and of its row."""
    row = {"arrivals": Arrivals.CLOSED.value, "speed": 1.0, **row}  # which older files do not name
    names = ("hardware", "model", "tiers", "gate", "batch", "arrivals", "speed", "policy")
    return json.dumps([row[name] for name in names])


class _Sources:
    """Digests of the files behind a sweep, each read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._digests: dict[Path, str] = {}

    def of_scenario(self, settings: Mapping[str, Any], scenario: Scenario) -> list[str]:
        workload = settings["workload"]
        trace = find_trace(Path(near(self._folder, workload["trace"]))) if "trace" in workload else None
        recorded = self._file(trace) if trace else ""
        return [offload.__version__, repr(scenario.profile), repr(scenario.shape), json.dumps(workload), recorded]

    def of_policy(self, name: str) -> list[str]:
        """Of the modules of its class and of those that it inherits from."""
        if name == BOUND:
            return []
        modules = [sys.modules.get(one.__module__) for one in find_policy(name).__mro__]
        files = [getattr(module, "__file__", None) for module in modules]
        return [self._file(Path(file)) for file in files if file]

    def _file(self, path: Path) -> str:
        if path not in self._digests:
            self._digests[path] = hashlib.sha256(path.read_bytes()).hexdigest()
        return self._digests[path]


def _digest(*values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
