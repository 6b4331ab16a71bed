"""A cell: one policy in one setting, and what its row depends on."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import offload
from offload.simulation.facts import setting_facts
from offload.simulation.scenario_file import read_scenario
from offload.simulation.sources import sources_of
from offload.simulation.values import near
from simulators.kv_serving import Arrivals
from simulators.kv_trace.formats import find_trace
from simulators.scenario import BOUND, Scenario
from tiers.eviction.registry import find_policy
from tiers.eviction.third_party import classes_of


@dataclass(frozen=True, slots=True)
class Cell:
    """One policy in one setting; ``head`` is how its row begins."""

    settings: Mapping[str, Any]
    """Those of a scenario without lists."""
    head: Mapping[str, Any]
    """What ``setting_facts`` gives, and ``policy``."""
    fingerprint: str
    """Of everything that the row depends on: settings, profile, model, trace, and the source of the policy."""

    @property
    def key(self) -> str:
        """What tells this cell from the others."""
        return cell_key(self.head)

    def row(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        """The row of this cell from what its run gave."""
        return {**self.head, **figures, "fingerprint": self.fingerprint}

    def __str__(self) -> str:
        told = {**self.head, "tiers": " + ".join(f"{name} {size:,}" for name, size in self.head["tiers"].items())}
        return ", ".join(f"{key} {value}" for key, value in told.items())


def cell_key(row: Mapping[str, Any]) -> str:
    """The same of a cell's head and of its row."""
    row = {"arrivals": Arrivals.CLOSED.value, "speed": 1.0, **row}  # which older files do not name
    told = [row[name] for name in ("hardware", "model", "tiers", "gate", "batch", "arrivals", "speed", "policy")]
    return json.dumps([*told, *(row.get(name) for name in ("storage", "host_memory", "price"))])


class CellMaker:
    """Cells of the scenario file at ``path``. What they depend on is read once for all of them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digests: dict[Path, str] = {}

    def cells(self, settings: Mapping[str, Any], *others: str) -> list[Cell]:
        """One for each policy of ``settings``, then for ``others``; raises as ``read_scenario`` does."""
        scenario = read_scenario(settings, self._path)
        inputs = self._inputs(settings, scenario)
        found = []
        for policy in (*scenario.policies, *others):
            head = {**setting_facts(settings, scenario), "policy": policy}
            found.append(Cell(settings, head, digest(head, inputs, self._sources(policy))))
        return found

    def workload(self, settings: Mapping[str, Any]) -> list[str]:
        """What tells the workload of ``settings`` from others: what they say of it, and a digest of a recorded one."""
        workload = settings["workload"]
        trace = find_trace(Path(near(self._path.parent, workload["trace"]))) if "trace" in workload else None
        return [json.dumps(workload), self._file(trace) if trace else ""]

    def _inputs(self, settings: Mapping[str, Any], scenario: Scenario) -> list[str]:
        return [offload.__version__, repr(scenario.profile), repr(scenario.shape), *self.workload(settings)]

    def _sources(self, policy: str) -> list[str]:
        """Of the modules of its class and of those that it inherits from, and of what those import."""
        if policy == BOUND:
            return []
        return [self._file(file) for file in sources_of(classes_of(find_policy(policy)))]

    def _file(self, path: Path) -> str:
        if path not in self._digests:
            self._digests[path] = hashlib.sha256(path.read_bytes()).hexdigest()
        return self._digests[path]


def digest(*values: object) -> str:
    """16 hexadecimal digits that differ where any of ``values`` does, which JSON can write."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
