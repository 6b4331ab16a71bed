"""Drives as files: those that ship by name, others by path, and single numbers changed."""

import json
import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from simulators.flash.drive import DriveParameters
from simulators.published import find_published
from tiers.errors import InvalidOptionError

_NUMBERS = {one.name: one.type for one in fields(DriveParameters) if one.name not in ("name", "sources")}


def load_drive(name: str) -> DriveParameters:
    """One that ships (``instattention``, ``pm9a3``, ...) or a JSON file of the same fields; InvalidOptionError."""
    path = find_published("drives", name)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidOptionError(f"{path}: is no description of a drive ({error})") from None
    if not isinstance(value, dict):
        raise InvalidOptionError(f"{path}: is no description of a drive; write an object of its numbers")
    name, sources = value.pop("name", path.stem), value.pop("sources", {})
    drive = changed(DriveParameters(name=str(name)), value, where=str(path))
    if not isinstance(sources, dict):
        raise InvalidOptionError(f"{path}: sources: {sources!r} is not an object; write {{field: where it is from}}")
    return replace(drive, sources=sources)


def changed(drive: DriveParameters, settings: Mapping[str, object], *, where: str = "drive") -> DriveParameters:
    """``drive`` with other numbers. Those given as text, ``{"channels": "16"}``, are read.

    InvalidOptionError names a field that there is not, or a value that is no number or out of range.
    """
    numbers: dict[str, Any] = {name: _number(name, value, where) for name, value in settings.items()}
    return replace(drive, **numbers)


def _number(name: str, value: object, where: str) -> float:
    if name not in _NUMBERS:
        raise InvalidOptionError(f"{where}: there is no '{name}'; known are {', '.join(_NUMBERS)}")
    is_count = _NUMBERS[name] is int
    number = _parsed(value)
    if not math.isfinite(number) or (is_count and number != int(number)):
        kind = "a whole number" if is_count else "a number"
        raise InvalidOptionError(f"{where}: '{name}' is {value!r}; it has to be {kind}")
    return int(number) if is_count else number


def _parsed(value: object) -> float:
    """NaN of what is no number."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan
