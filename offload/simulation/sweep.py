"""The cells of a sweep: every combination of what a scenario lists, once for each policy and once for the bound."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offload.config_file import read_config_file
from offload.simulation.axes import Axes, axes_of, combinations
from offload.simulation.cell import Cell, CellMaker
from offload.simulation.facts import scenario_facts
from offload.simulation.scenario_file import find_scenario
from simulators.scenario import BOUND


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
    maker = CellMaker(path)
    cells = [cell for one in combinations(settings, axes) for cell in maker.cells(one, BOUND)]
    return Sweep(path, scenario_facts(given, settings, is_sweep=True), axes, tuple(cells))
