"""The best setting as a scenario file, and as the settings of a run."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from offload.simulation.scenario_file import read_scenario
from offload.sizes import exact_size
from offload.tuning.space import POLICY, Choice
from offload.tuning.task import Task
from offload.whole_file import write_whole

_RUN_KEYS = {"device": "device_memory", "host": "host_memory", "nvme": "nvme_memory"}


def best_scenario(task: Task, choice: Choice, folder: Path) -> dict[str, Any]:
    """The settings of the scenario of a choice, for a file in ``folder``: paths lead from there to where they did."""
    settings = task.space.scenario(choice)
    settings["tiers"] = {level: exact_size(nbytes) for level, nbytes in settings["tiers"].items()}
    here = task.path.parent

    def moved(name: str) -> str:
        beside = here / name
        is_path = not Path(name).is_absolute() and beside.is_file()
        return os.path.relpath(beside, folder) if is_path else name

    settings |= {key: moved(settings[key]) for key in ("hardware", "model")}
    workload: Mapping[str, Any] = settings["workload"]
    if "trace" in workload:
        settings["workload"] = {**workload, "trace": moved(workload["trace"])}
    return settings


def run_settings(task: Task, choice: Choice) -> dict[str, Any]:
    """What ``offload run --config`` takes of a choice: the budgets, that of the device with the weights, and the batch.

    Activations come on top. The policy is none of it: that of a run is one of experts, not of keys and values.
    """
    scenario = read_scenario(task.space.scenario(choice), task.path)
    sizes = {**scenario.tiers, "device": scenario.tiers["device"] + scenario.shape.nbytes}
    found: dict[str, Any] = {_RUN_KEYS[level]: exact_size(nbytes) for level, nbytes in sizes.items()}
    return {**found, "batch": scenario.batch}


def write_best(out: Path, data: Mapping[str, Any]) -> None:
    """Writes the scenario of an answer of ``tune``, whole or not at all; raises as ``write_whole`` does."""
    best = data["best"]
    about = [
        f"Found by '{data['command']}' in {len(data['trials'])} of {data['combinations']} settings:",
        f"{data['objective']} {best['value']:.6g}.",
        "As settings of a run, with the weights on the device and without activations ('offload run --config'):",
        *(f"  {key}: {value}" for key, value in best["run"].items()),
    ]
    comments = "".join(f"# {' '.join(line.split()) if not line.startswith('  ') else line}\n" for line in about)
    write_whole(out, comments + yaml.safe_dump(best["scenario"], sort_keys=False, allow_unicode=True))


def changed(task: Task, choice: Choice) -> dict[str, Any]:
    """What was chosen, as people write it."""
    return {
        axis.name: exact_size(choice[axis.name]) if axis.name.startswith("tiers.") else choice[axis.name]
        for axis in task.space.axes
        if len(axis.values) > 1 or axis.name == POLICY
    }
