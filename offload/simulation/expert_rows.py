"""Rows of a scenario of experts without lists: every policy with every predictor, and two bounds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from offload.config_file import read_config_file
from offload.simulation.axes import axes_of, refuse_axes
from offload.simulation.expert_cells import ExpertCells
from offload.simulation.facts import scenario_facts
from offload.simulation.scenario_file import find_scenario


def simulate_experts(path: Path, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """The answer. Raises as ``ExpertCells`` and ``ExpertExperiment``, and InvalidOptionError for a list.

    PolicyError for somebody else's policy or predictor that does wrong.
    """
    file = find_scenario(path)
    settings = read_config_file(file)
    maker = ExpertCells(file)
    refuse_axes(axes_of(settings, file, maker.swept), file)
    cells = maker.cells(settings, with_bounds=True)
    run = maker.setting(settings).experiment(maker.workload(settings))
    rows: list[dict[str, Any]] = []
    for cell in cells:
        progress(len(rows), len(cells))
        rows.append(cell.row(run(cell.head)))
    progress(len(rows), len(cells))
    return {**scenario_facts(path, settings), "rows": rows}
