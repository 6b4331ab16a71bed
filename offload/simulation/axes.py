"""A scenario that gives lists where one value would do stands for every combination of them."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tiers.errors import InvalidOptionError

SWEPT = ("hardware", "model", "gate", "batch", "arrivals", "speed", "storage", "host_memory", "tiers")
"""Keys that may hold a list; ``tiers`` is each of its levels."""

Axes = Mapping[str, list[object]]
"""``hardware``, ``tiers.host``, ... and their values, in the order in which they vary, the slowest first."""


def axes_of(settings: Mapping[str, object], path: Path, keys: Sequence[str] = SWEPT) -> Axes:
    """The keys of a scenario that hold lists; InvalidOptionError names the file where one is empty or a range.

    ``keys`` are those that may, ``drive.drives`` being ``drives`` below ``drive``, and ``tiers`` all of its levels.
    """
    tiers = settings.get("tiers")
    levels = [f"tiers.{level}" for level in tiers] if isinstance(tiers, Mapping) else []
    found = {one: _at(settings, one) for key in keys for one in (levels if key == "tiers" else (key,))}
    for key, value in found.items():
        if isinstance(value, Mapping):
            raise InvalidOptionError(
                f"{path}: {key}: is a range, which 'offload tune' searches; write a value or a list"
            )
    axes = {key: _without_repeats(values) for key, values in found.items() if isinstance(values, list)}
    for key, values in axes.items():
        if not values:
            raise InvalidOptionError(f"{path}: {key}: the list is empty; write one value or more")
    return axes


def refuse_axes(axes: Axes, path: Path) -> None:
    """InvalidOptionError for a list where one value is asked for."""
    if axes:
        raise InvalidOptionError(f"{path}: {next(iter(axes))}: is a list; --sweep runs every combination")


def combinations(settings: Mapping[str, object], axes: Axes) -> Iterator[dict[str, object]]:
    """The settings of each combination: those given, with one value for each of the axes."""
    for values in itertools.product(*axes.values()):
        one: dict[str, Any] = dict(settings)
        for key, value in zip(axes, values, strict=True):
            group, dot, name = key.partition(".")
            one[group] = {**one[group], name: value} if dot else value
        yield one


def _at(settings: Mapping[str, object], key: str) -> object:
    group, dot, name = key.partition(".")
    inner = settings.get(group)
    if not dot:
        return inner
    return inner.get(name) if isinstance(inner, Mapping) else None


def _without_repeats(values: list[object]) -> list[object]:
    return [value for i, value in enumerate(values) if value not in values[:i]]
