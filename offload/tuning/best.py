"""The best setting as a scenario file, and as the settings of a run."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from offload.sizes import exact_size
from offload.tuning.space import POLICY, Choice
from offload.tuning.task import Task
from offload.whole_file import write_whole

_NVME_DIR = ".offload"
"""A run's drive needs a directory; the one of the README's examples."""


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
    for key in ("workload", "experts"):
        if "trace" in settings.get(key, {}):
            settings[key] = {**settings[key], "trace": moved(settings[key]["trace"])}
    if "predictors" in settings:
        settings["predictors"] = [moved(name) for name in settings["predictors"]]
    return settings


def run_settings(task: Task, choice: Choice) -> dict[str, Any]:
    """What ``offload run --config`` takes of a choice, sizes as people write them. Activations come on top."""
    found = dict(task.maker.setting(task.space.scenario(choice)).run_settings())
    if "nvme_memory" in found:
        found["nvme_dir"] = _NVME_DIR
    return {key: exact_size(value) if key.endswith("_memory") else value for key, value in found.items()}


def write_best(out: Path, data: Mapping[str, Any]) -> None:
    """Writes the scenario of an answer of ``tune``, whole or not at all; raises as ``write_whole`` does."""
    best = data["best"]
    beside = "keys, values and activations" if "experts" in best["scenario"] else "activations"
    about = [
        f"Found by '{data['command']}' in {len(data['trials'])} of {data['combinations']} settings:",
        f"{data['objective']} {best['value']:.6g}.",
        f"As settings of a run, with the weights on the device and without {beside} ('offload run --config'):",
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
