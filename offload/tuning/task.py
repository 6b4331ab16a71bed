"""A scenario file read as a search: what may be chosen, what for, and by what it is known again."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offload.config_file import read_config_file
from offload.simulation.cell import Cell, digest
from offload.simulation.drive_scenario import is_drive_scenario
from offload.simulation.kinds import CellMaker, Setting, cell_maker
from offload.simulation.scenario_file import find_scenario
from offload.tuning.goal import Goal, read_goal
from offload.tuning.learned import Features, features_of
from offload.tuning.space import POLICY, Choice, Space, read_space
from tiers.errors import InvalidOptionError, UsageError
from tiers.eviction.registry import find_policy

OWN_KEYS = ("limits", "prices")
"""Keys that a scenario has for a search alone."""

_MOST_TRIES = 2000
"""Choices with one value, after which it is taken for one that none can be made with."""


@dataclass(frozen=True, slots=True)
class Task:
    """One search. ``subject`` names model, machine and workload for a file name; ``inputs`` is a digest of them."""

    settings: Mapping[str, Any]
    space: Space
    base: Choice
    """One that makes a scenario."""
    goal: Goal
    features: Features
    subject: str
    inputs: str
    maker: CellMaker
    prints: tuple[str, ...]
    """Fingerprints of a cell of each policy and each predictor."""

    @property
    def path(self) -> Path:
        """Of the scenario file."""
        return self.maker.path

    @property
    def identity(self) -> str:
        """Of the study: everything that a value in it depends on."""
        goal = [self.goal.objective, self.goal.is_maximized, self.goal.limits, self.goal.prices]
        axes = [[axis.name, axis.values] for axis in self.space.axes]
        return digest(self.inputs, goal, axes, self.prints)

    def cell(self, choice: Choice) -> Cell:
        """Raises UsageError where the choice makes no scenario."""
        return self.maker.cells(self.space.scenario(choice))[0]


def read_task(given: Path, objective: str, *, maximize: bool | None = None) -> Task:
    """Every value is tried for whether it can be used, before anything runs.

    Raises InvalidOptionError, which names the file and the key, or TraceError.
    """
    path = find_scenario(given)
    settings = read_config_file(path)
    if is_drive_scenario(settings):
        raise InvalidOptionError(f"{path}: is of drives that attend, which --sweep of 'offload simulate' compares")
    maker = cell_maker(path, settings)
    sized = maker.in_bytes({key: value for key, value in settings.items() if key not in OWN_KEYS})
    try:
        space = read_space(sized, maker)
    except InvalidOptionError as error:
        raise InvalidOptionError(f"{path}: {error}") from None
    usable = _usable(space, maker)
    deciding = [choice for axis in space.deciders for choice, _ in usable[axis.name]]
    tried = list(itertools.chain.from_iterable(usable.values()))
    base, first = tried[0]
    try:
        goal = read_goal(settings, first, objective, maximize=maximize)
    except InvalidOptionError as error:
        is_option = str(error).startswith("--")
        raise error if is_option else InvalidOptionError(f"{path}: {error}") from None
    found = [setting for _, setting in tried]
    models, machines = _names(space, "model"), _names(space, "hardware")
    inputs = [sorted({repr(one.shape) for one in found}), sorted({repr(one.profile) for one in found})]
    subject = "-".join(Path(name).stem for name in (models[0], machines[0]))
    return Task(
        settings=settings,
        space=space,
        base=base,
        goal=goal,
        features=features_of(found, first.workload_figures(maker.workload(space.scenario(base)))),
        subject=subject,
        inputs=digest(inputs, maker.workload_print(settings)),
        maker=maker,
        prints=tuple(maker.cells(space.scenario(choice))[0].fingerprint for choice in deciding),
    )


def _usable(space: Space, maker: CellMaker) -> dict[str, list[tuple[Choice, Setting]]]:
    """By axis, a choice with each value that is tried, and its setting, whatever else has to be chosen with it.

    UsageError where a value cannot be used with any of the others.
    """
    for name in next(axis.values for axis in space.axes if axis.name == POLICY):
        find_policy(name, maker.keys)
    found: dict[str, list[tuple[Choice, Setting]]] = {}
    base: Choice | None = None
    for axis in space.axes:
        found[axis.name] = []
        for value in axis.tried:
            near = [{**base, axis.name: value}] if base else []
            usable = _first_usable(itertools.chain(near, space.holding(axis.name, value)), space, maker)
            found[axis.name].append(usable)
            base = base or usable[0]
    return found


def _first_usable(choices: Iterable[Choice], space: Space, maker: CellMaker) -> tuple[Choice, Setting]:
    refusals: list[UsageError] = []
    for choice in itertools.islice(choices, _MOST_TRIES):
        try:
            return choice, maker.setting(space.scenario(choice))
        except UsageError as error:
            refusals.append(error)
    raise refusals[0]


def _names(space: Space, key: str) -> list[str]:
    return [str(value) for axis in space.axes if axis.name == key for value in axis.values]
