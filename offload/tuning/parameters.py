"""A space as Optuna has it: an ordered axis is the place in its values, which has a distance; others are categories."""

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from offload.tuning.space import Axis, Choice, Space


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """Of the axes that leave a choice."""
    return {axis.name: _distribution(axis) for axis in space.searched}


def params_of(space: Space, choice: Choice) -> dict[str, Any]:
    """Optuna's words for a choice."""
    return {
        axis.name: axis.values.index(choice[axis.name]) if axis.is_ordered else choice[axis.name]
        for axis in space.searched
    }


def choice_of(space: Space, params: Mapping[str, Any]) -> Choice:
    """What Optuna suggests, and the only value of every other axis."""
    fixed = {axis.name: axis.values[0] for axis in space.axes}
    return fixed | {
        axis.name: axis.values[params[axis.name]] if axis.is_ordered else params[axis.name] for axis in space.searched
    }


def _distribution(axis: Axis) -> BaseDistribution:
    if axis.is_ordered:
        return IntDistribution(0, len(axis.values) - 1)
    return CategoricalDistribution(axis.values)
