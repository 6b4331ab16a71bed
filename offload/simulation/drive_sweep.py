"""A scenario with computing drives that gives lists stands for every combination of them."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import offload
from offload.simulation.axes import Axes
from offload.simulation.cell import digest
from offload.simulation.drive_scenario import DriveCase
from tiers.errors import InvalidOptionError

SWEPT = ("hardware", "model", "batch", "drive.compression", "drive.drives", "drive.profile")
"""Keys that may hold a list; ``drive.engine`` always may, as policies elsewhere."""


def axes_of(settings: Mapping[str, object], path: Path) -> Axes:
    """The keys that hold lists; InvalidOptionError names the file where one is empty."""
    found: dict[str, list[object]] = {}
    for key in SWEPT:
        value = _at(settings, key)
        if isinstance(value, list):
            if not value:
                raise InvalidOptionError(f"{path}: {key}: the list is empty; write one value or more")
            found[key] = [one for i, one in enumerate(value) if one not in value[:i]]
    return found


def combinations(settings: Mapping[str, object], path: Path) -> Iterator[Mapping[str, object]]:
    """Settings with one value for each of the axes; raises as ``axes_of``."""
    axes = axes_of(settings, path)
    for values in itertools.product(*axes.values()):
        one: dict[str, Any] = dict(settings)
        for key, value in zip(axes, values, strict=True):
            group, _, name = key.rpartition(".")
            one |= {group: {**one[group], name: value}} if group else {name: value}
        yield one


def _at(settings: Mapping[str, object], key: str) -> object:
    group, _, name = key.rpartition(".")
    inner = settings.get(group) if group else settings
    return inner.get(name) if isinstance(inner, Mapping) else None


def fingerprint(case: DriveCase) -> str:
    """Of everything that the row depends on, but the code of this version."""
    return digest(offload.__version__, dict(case.head), repr(case.system), repr(case.host), case.engine_w)
