"""What a search may choose: the keys of a scenario that hold lists or ranges, each a finite number of values."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from offload.simulation.kinds import CellMaker
from offload.simulation.values import suggest
from offload.sizes import parse_size
from tiers.errors import InvalidOptionError

POLICY = "policy"
DECIDERS = {POLICY: ("policies", "lru"), "predictor": ("predictors", "none")}
"""What lists of names of each are called, and which name it is where none is given."""

_RANGE = ("min", "max", "step")
_STEPS, _MOST_STEPS = 32, 10_000
"""Values of a range that names no step, about; and most of one that does."""

_TOLD = 16

Choice = Mapping[str, Any]
"""A value for each axis, by its name: a text, bytes of a tier, a batch, or a speed."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One key: ``hardware``, ``tiers.host``, ``policy``, ... Ordered are sizes and numbers, which rise."""

    name: str
    values: tuple[Any, ...]
    is_ordered: bool

    @property
    def tried(self) -> tuple[Any, ...]:
        """Those of which it is found out beforehand whether they can be used: all names, both ends of what rises."""
        return tuple(dict.fromkeys((self.values[0], self.values[-1]))) if self.is_ordered else self.values

    @property
    def told(self) -> Any:
        """Its values, or of many their ends and number."""
        if len(self.values) <= _TOLD:
            return list(self.values)
        return {"min": self.values[0], "max": self.values[-1], "values": len(self.values)}

    def nearest(self, value: object) -> Any | None:
        """The value of this axis that stands for that of another search; None if there is none like it."""
        if len(self.values) == 1:
            return self.values[0]
        if self.is_ordered and type(value) in (int, float):
            return min(self.values, key=lambda mine: abs(mine - value))
        return value if value in self.values else None


@dataclass(frozen=True, slots=True)
class Space:
    """All that a search may choose of ``settings``, which are those of a scenario."""

    settings: Mapping[str, Any]
    axes: tuple[Axis, ...]

    @property
    def size(self) -> int:
        """How many choices there are."""
        return math.prod(len(axis.values) for axis in self.axes)

    @property
    def searched(self) -> tuple[Axis, ...]:
        """The axes that leave a choice."""
        return tuple(axis for axis in self.axes if len(axis.values) > 1)

    def choices(self) -> Iterator[Choice]:
        """All of them."""
        names = [axis.name for axis in self.axes]
        for values in itertools.product(*(axis.values for axis in self.axes)):
            yield dict(zip(names, values, strict=True))

    @property
    def deciders(self) -> tuple[Axis, ...]:
        """The axes of names of policies and predictors."""
        return tuple(axis for axis in self.axes if axis.name in DECIDERS)

    def holding(self, name: str, value: object) -> Iterator[Choice]:
        """Choices with that value, of all that is ``tried`` of the other axes.

        Of policies only the first: whether there is one of that name does not depend on anything else.
        """
        others = {axis.name: axis.tried[:1] if axis.name == POLICY else axis.tried for axis in self.axes}
        for values in itertools.product(*({**others, name: (value,)}).values()):
            yield dict(zip(others, values, strict=True))

    def nearest(self, other: Choice) -> Choice | None:
        """The choice that is most like that of another search; None where it chose what is not to choose from here."""
        found = {axis.name: axis.nearest(other.get(axis.name)) for axis in self.axes}
        return None if None in found.values() else found

    def key(self, choice: Choice) -> tuple[Any, ...]:
        """What tells a choice from others."""
        return tuple(choice[axis.name] for axis in self.axes)

    def tiers(self, choice: Choice) -> dict[str, int]:
        """Bytes of each level."""
        return {level: choice[f"tiers.{level}"] for level in self.settings["tiers"]}

    def scenario(self, choice: Choice) -> dict[str, Any]:
        """The settings of a scenario without lists."""
        names = {word for key, (plural, _) in DECIDERS.items() for word in (key, plural)}
        one = {key: choice.get(key, value) for key, value in self.settings.items() if key not in names}
        one["tiers"] = self.tiers(choice)
        return one | {DECIDERS[axis.name][0]: [choice[axis.name]] for axis in self.deciders}


def read_space(settings: Mapping[str, Any], maker: CellMaker) -> Space:
    """What ``settings`` leave to choose of the keys of which ``maker`` knows.

    Raises InvalidOptionError, which names the key, for an empty list, a range that is none, or nothing to choose.
    """
    tiers = settings.get("tiers")
    if not isinstance(tiers, Mapping):
        raise InvalidOptionError("tiers: is missing or no mapping; write one 'level: size' a line below it")
    axes = [
        _speeds(settings[key]) if key == "speed" else _axis(key, settings[key], is_number=key == "batch")
        for key in maker.swept
        if key in settings and key != "tiers"
    ]
    axes += [_axis(f"tiers.{level}", value, is_size=True) for level, value in tiers.items()]
    for key in maker.deciders:
        plural, default = DECIDERS[key]
        axes.append(_axis(key, settings.get(plural, settings.get(key, default))))
    space = Space(settings, tuple(axes))
    if not space.searched:
        message = (
            "nothing to choose from; write a list such as [lru, arc], or a range such as {min: 50GiB, max: 400GiB}"
        )
        raise InvalidOptionError(message)
    return space


def _axis(name: str, given: object, *, is_size: bool = False, is_number: bool = False) -> Axis:
    if isinstance(given, Mapping):
        if not (is_size or is_number):
            raise InvalidOptionError(f"{name}: a range is for sizes and batch; write a list of names")
        return Axis(name, _range(name, given, is_size=is_size), is_ordered=True)
    values = given if isinstance(given, list) else [given]
    if not values:
        raise InvalidOptionError(f"{name}: the list is empty; write one value or more")
    if not (is_size or is_number):
        return Axis(name, tuple(dict.fromkeys(_text(name, value) for value in values)), is_ordered=False)
    read = {_whole(name, value, is_size=is_size) for value in values}
    return Axis(name, tuple(sorted(read)), is_ordered=True)


def _speeds(given: object) -> Axis:
    """No whole numbers, so no range of them."""
    values: list[Any] = given if isinstance(given, list) else [given]
    for value in values:
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise InvalidOptionError(f"speed: {value!r} is no number above 0; write one, or a list of them")
    if not values:
        raise InvalidOptionError("speed: the list is empty; write one value or more")
    return Axis("speed", tuple(sorted({float(value) for value in values})), is_ordered=True)


def _range(name: str, given: Mapping[Any, object], *, is_size: bool) -> tuple[int, ...]:
    for key in given:
        if key not in _RANGE:
            raise InvalidOptionError(f"{name}: unknown key '{key}'; {suggest(str(key), _RANGE)}")
    if "min" not in given or "max" not in given:
        raise InvalidOptionError(f"{name}: a range has min and max; one of them is missing")
    read = {key: _whole(f"{name}.{key}", value, is_size=is_size) for key, value in given.items()}
    low, high = read["min"], read["max"]
    if low > high:
        raise InvalidOptionError(f"{name}: min {given['min']} is above max {given['max']}; swap them")
    # By powers of two where nothing is said: sizes that people can read.
    step = read.get("step", 1 << max(0, ((high - low) // _STEPS).bit_length() - 1))
    if step < 1 or (high - low) // step >= _MOST_STEPS:
        raise InvalidOptionError(f"{name}.step: {given.get('step')} makes no steps or too many; write a larger one")
    return (*range(low, high, step), high)


def _whole(name: str, value: object, *, is_size: bool) -> int:
    if not is_size:
        if type(value) is not int or value < 1:
            raise InvalidOptionError(f"{name}: {value!r} is no whole number from 1 up")
        return value
    try:
        return parse_size(str(value))
    except InvalidOptionError as error:
        raise InvalidOptionError(f"{name}: {error}") from None


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise InvalidOptionError(f"{name}: {value!r} is no name; write one")
    return value
