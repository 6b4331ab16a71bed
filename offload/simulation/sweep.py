"""The cells of a sweep: every combination of what a scenario lists, once for each policy and once for the bound."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offload.config_file import read_config_file
from offload.simulation.axes import Axes, axes_of, combinations
from offload.simulation.cell import Cell
from offload.simulation.facts import scenario_facts
from offload.simulation.kinds import CellMaker, cell_maker
from offload.simulation.scenario_file import find_scenario


@dataclass(frozen=True, slots=True)
class Sweep:
    """All cells of a scenario file, those of one setting next to each other."""

    maker: CellMaker
    facts: Mapping[str, Any]
    axes: Axes
    cells: tuple[Cell, ...]

    @property
    def path(self) -> Path:
        """Of the scenario file."""
        return self.maker.path


def read_sweep(given: Path) -> Sweep:
    """Raises as ``CellMaker.cells`` does, for all combinations, before any runs."""
    path = find_scenario(given)
    settings = read_config_file(path)
    maker = cell_maker(path, settings)
    axes = axes_of(settings, path, maker.swept)
    cells = [cell for one in combinations(settings, axes) for cell in maker.cells(one, with_bounds=True)]
    # Two ways to write a size make one cell.
    once = {cell.key: cell for cell in cells}
    return Sweep(maker, scenario_facts(given, settings, is_sweep=True), axes, tuple(once.values()))
