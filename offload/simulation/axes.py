"""A scenario that gives lists where one value would do stands for every combination of them."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

from tiers.errors import InvalidOptionError

SWEPT = ("hardware", "model", "gate", "batch", "arrivals", "speed", "storage", "host_memory")
"""Keys that may hold a list; so may every level below ``tiers``."""

Axes = Mapping[str, list[object]]
"""``hardware``, ``tiers.host``, ... and their values, in the order in which they vary, the slowest first."""


def axes_of(settings: Mapping[str, object], path: Path) -> Axes:
    """The keys of a scenario that hold lists; InvalidOptionError names the file where one is empty or a range."""
    tiers = settings.get("tiers")
    below = {f"tiers.{level}": value for level, value in tiers.items()} if isinstance(tiers, Mapping) else {}
    found = {key: settings.get(key) for key in SWEPT} | below
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


def combinations(settings: Mapping[str, object], axes: Axes) -> Iterator[dict[str, object]]:
    """The settings of each combination: those given, with one value for each of the axes."""
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        one = {key: chosen.get(key, value) for key, value in settings.items()}
        tiers = settings.get("tiers")
        if isinstance(tiers, Mapping):
            one["tiers"] = {level: chosen.get(f"tiers.{level}", value) for level, value in tiers.items()}
        yield one


def _without_repeats(values: list[object]) -> list[object]:
    return [value for i, value in enumerate(values) if value not in values[:i]]
