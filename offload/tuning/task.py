"""A scenario file read as a search: what may be chosen, what for, and by what it is known again."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offload.config_file import read_config_file
from offload.simulation.cell import Cell, CellMaker, digest
from offload.simulation.scenario_file import find_scenario, read_scenario
from offload.tuning.goal import Goal, read_goal
from offload.tuning.learned import Features, features_of
from offload.tuning.space import POLICY, Choice, Space, read_space
from simulators.scenario import Scenario
from tiers.errors import InvalidOptionError
from tiers.eviction.registry import find_policy

OWN_KEYS = ("limits", "prices")
"""Keys that a scenario has for a search alone."""


@dataclass(frozen=True, slots=True)
class Task:
    """One search. ``subject`` names model, machine and workload for a file name; ``inputs`` is a digest of them."""

    path: Path
    settings: Mapping[str, Any]
    space: Space
    goal: Goal
    features: Features
    subject: str
    inputs: str
    maker: CellMaker

    @property
    def identity(self) -> str:
        """Of the study: everything that a value in it depends on."""
        goal = [self.goal.objective, self.goal.is_maximized, self.goal.limits, self.goal.prices]
        axes = [[axis.name, axis.values] for axis in self.space.axes]
        first = next(self.space.single_changes())
        prints = [self.cell({**first, POLICY: policy}).fingerprint for policy in self._policies()]
        return digest(self.inputs, goal, axes, prints)

    def cell(self, choice: Choice) -> Cell:
        """Raises UsageError where the choice makes no scenario."""
        return self.maker.cells(self.space.scenario(choice))[0]

    def _policies(self) -> tuple[str, ...]:
        return next(axis.values for axis in self.space.axes if axis.name == POLICY)


def read_task(given: Path, objective: str, *, maximize: bool | None = None) -> Task:
    """Every value is tried for whether it can be used, before anything runs.

    Raises InvalidOptionError, which names the file and the key, or TraceError.
    """
    path = find_scenario(given)
    settings = read_config_file(path)
    try:
        space = read_space({key: value for key, value in settings.items() if key not in OWN_KEYS})
    except InvalidOptionError as error:
        raise InvalidOptionError(f"{path}: {error}") from None
    scenarios = _usable(space, path)
    try:
        goal = read_goal(settings, scenarios[0], objective, maximize=maximize)
    except InvalidOptionError as error:
        is_option = str(error).startswith("--")
        raise error if is_option else InvalidOptionError(f"{path}: {error}") from None
    maker = CellMaker(path)
    models, machines = _names(space, "model"), _names(space, "hardware")
    inputs = [sorted({repr(one.shape) for one in scenarios}), sorted({repr(one.profile) for one in scenarios})]
    workload = maker.workload(settings)
    features = features_of(scenarios, read_scenario(space.scenario(next(space.choices())), path).trace)
    subject = "-".join(Path(name).stem for name in (models[0], machines[0]))
    return Task(path, settings, space, goal, features, subject, digest(inputs, workload), maker)


def _usable(space: Space, path: Path) -> list[Scenario]:
    """A scenario for each single change, so that every value is in one."""
    for axis in space.axes:
        if axis.name == POLICY:
            for name in axis.values:
                find_policy(name)
    return [read_scenario(space.scenario(choice), path) for choice in space.single_changes()]


def _names(space: Space, key: str) -> list[str]:
    return [str(value) for axis in space.axes if axis.name == key for value in axis.values]
