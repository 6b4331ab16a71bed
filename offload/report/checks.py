"""What is wrong with a file that is to be shown: said with the file, the key and what would be right."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tiers.errors import InvalidOptionError

_GAP_KINDS = ("reuse_distance", "prefix_depth", "session_age_s")
_GAP_COUNTS = ("asked", "hits", "ideal_hits", "lost", "won")


def check_values(
    path: Path, where: str, given: Mapping[str, Any], texts: Sequence[str], numbers: Sequence[str]
) -> None:
    """Texts and numbers that have to be there. A number may be null, which is how JSON writes an infinite one."""
    for key in (*texts, *numbers):
        if key not in given:
            raise InvalidOptionError(f"{path}: {where}{key} is missing; name a file that --json wrote")
        value, is_text = given[key], key in texts
        is_right = isinstance(value, str) if is_text else value is None or type(value) in (int, float)
        if not is_right:
            kind = "text" if is_text else "number"
            raise InvalidOptionError(f"{path}: {where}{key}: {value!r} is no {kind}")


def check_numbers(path: Path, where: str, values: Any) -> None:
    """A mapping of names to numbers."""
    if not isinstance(values, dict):
        raise InvalidOptionError(f"{path}: {where}: {values!r} is no mapping of names to numbers")
    check_values(path, f"{where}.", values, (), tuple(values))


def check_timeline(path: Path, where: str, given: Any) -> None:
    """What Activity makes: lanes of as many numbers as there are bins."""
    if not isinstance(given, dict) or not _is_above_zero(given.get("bin_s")):
        raise InvalidOptionError(f"{path}: {where}: has no bin_s above 0; name a file that --json wrote")
    for kind in ("busy", "levels", "counts"):
        lanes = given.get(kind)
        if not isinstance(lanes, dict) or not all(_is_row(row) for row in lanes.values()):
            raise InvalidOptionError(f"{path}: {where}.{kind}: is no mapping of lanes to lists of numbers")
    check_numbers(path, f"{where}.slots", given.get("slots", {}))


def check_gap(path: Path, where: str, given: Any) -> None:
    """What GapFinder makes, with the size of a block."""
    if not isinstance(given, dict):
        raise InvalidOptionError(f"{path}: {where}: {given!r} is no mapping")
    for key in ("accesses", "cold", "hits", "lost", "block_bytes"):
        if type(given.get(key)) is not int:
            raise InvalidOptionError(f"{path}: {where}.{key}: {given.get(key)!r} is no whole number")
    if given["block_bytes"] < 1:
        raise InvalidOptionError(f"{path}: {where}.block_bytes: {given['block_bytes']} is no size")
    for kind in _GAP_KINDS:
        by = given["by"].get(kind) if isinstance(given.get("by"), dict) else None
        if not isinstance(by, dict) or not all(_is_row(by.get(name)) for name in _GAP_COUNTS):
            raise InvalidOptionError(
                f"{path}: {where}.by.{kind}: is no table of numbers; name a file that --json wrote"
            )
        limits = by.get("up_to")
        if not _are_limits(limits, may_end=kind == "session_age_s") or {len(by[name]) for name in _GAP_COUNTS} != {
            len(limits or ())
        }:
            raise InvalidOptionError(f"{path}: {where}.by.{kind}: has not as many numbers as buckets in up_to")


def _are_limits(values: Any, *, may_end: bool) -> bool:
    """Numbers; the last one may be null if it ``may_end`` so: without a limit."""
    is_open = may_end and isinstance(values, list) and values[-1:] == [None]
    return _is_row(values[:-1] if is_open else values)


def check_events(path: Path, events: Sequence[Any]) -> None:
    """Events of the kinds that we read, in the Trace Event Format."""
    for i, event in enumerate(events):
        where = f"{path}: traceEvents[{i}]"
        if not isinstance(event, dict):
            raise InvalidOptionError(f"{where}: {event!r} is no event; name what --trace-out wrote")
        if event.get("ph") == "X" and not all(type(event.get(key)) in (int, float) for key in ("ts", "dur")):
            raise InvalidOptionError(f"{where}: has no 'ts' and 'dur'; name what --trace-out wrote")
        if event.get("name") == "process_name":
            told = event.get("args")
            if type(event.get("pid")) is not int or not isinstance(told, dict) or not isinstance(told.get("name"), str):
                raise InvalidOptionError(f"{where}: names no process; name what --trace-out wrote")


def _is_row(row: Any) -> bool:
    return isinstance(row, list) and all(type(value) in (int, float) for value in row)


def _is_above_zero(value: Any) -> bool:
    return type(value) in (int, float) and value > 0
