"""What ``offload simulate`` does: one scenario, or all that a file stands for."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from offload.commands.output import json_text
from offload.config_file import read_config_file
from offload.simulation.drive_rows import simulate_drives
from offload.simulation.drive_scenario import is_drive_scenario
from offload.simulation.expert_rows import simulate_experts
from offload.simulation.expert_scenario import is_expert_scenario
from offload.simulation.facts import scenario_facts, setting_facts
from offload.simulation.scenario_file import find_scenario, load_scenario
from offload.simulation.sweep import read_sweep
from offload.simulation.sweep_file import Rows, finished_rows, sweep_answer
from offload.simulation.sweep_run import run_cells
from offload.whole_file import write_whole
from simulators.scenario import run_scenario
from tiers.errors import InvalidOptionError

ProgressCallback = Callable[[int, int], None]

_SAVE_EVERY_S = 2.0


def simulate_one(path: Path, progress: ProgressCallback) -> dict[str, Any]:
    """The answer of a scenario without lists; raises what ``load_scenario`` and ``run_scenario`` do."""
    settings = read_config_file(find_scenario(path))
    if is_drive_scenario(settings):
        return simulate_drives(path, progress)
    if is_expert_scenario(settings):
        return simulate_experts(path, progress)
    scenario = load_scenario(path)
    facts = {**scenario_facts(path, settings), **setting_facts(settings, scenario), "hardware": scenario.profile.name}
    return {**facts, "rows": run_scenario(scenario, progress)}


def simulate_sweep(
    path: Path, out: Path | None, progress: ProgressCallback, *, ray: str | None = None
) -> dict[str, Any]:
    """The answer of every combination that a scenario lists. What ``out`` holds already is not run again.

    ``out`` is kept up to date, also where this ends in an exception. ``ray`` is the address of a cluster to run on.
    Raises what ``read_sweep``, ``finished_rows`` and ``run_cells`` do.
    """
    if is_drive_scenario(read_config_file(find_scenario(path))):
        if ray is not None:
            raise InvalidOptionError(f"--ray: {path} is of drives, whose cells take seconds; leave --ray out")
        return simulate_drives(path, progress, is_sweep=True, out=out)
    sweep = read_sweep(path)
    rows: Rows = finished_rows(out, sweep) if out else {}
    saved_s = time.monotonic()

    def save() -> None:
        if out is not None:
            write_whole(out, json_text(sweep_answer(sweep, rows)))

    def save_now_and_then() -> None:
        nonlocal saved_s
        if time.monotonic() - saved_s > _SAVE_EVERY_S:
            save()
            saved_s = time.monotonic()

    try:
        run_cells(sweep, rows, ray=ray, progress=progress, on_row=save_now_and_then)
    finally:
        if rows:
            save()
    return sweep_answer(sweep, rows)
