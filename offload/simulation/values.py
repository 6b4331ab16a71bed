"""Values as a scenario file has them; each error names the key and what would be right."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path

from offload.sizes import parse_size
from simulators.scenario import LEVELS
from tiers.errors import InvalidOptionError


def check_keys(where: str, given: Mapping[str, object], known: Iterable[str]) -> None:
    """InvalidOptionError with the nearest known key for one that is not; ``where`` is what stands before it."""
    for key in given:
        if key not in known:
            raise InvalidOptionError(f"unknown key '{where}{key}'; {suggest(key, known)}")


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: the nearest that is known, else all."""
    near = difflib.get_close_matches(word, list(known), 1, 0.5)
    return f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"


def near(folder: Path, name: str) -> str:
    """A name as a scenario in ``folder`` means it.

    A path is taken from the scenario's folder; a name that is no file there may be one that ships.
    """
    beside = folder / name
    return str(beside) if beside.is_file() else name


def mapping(key: str, value: object) -> Mapping[str, object]:
    """InvalidOptionError for what is none."""
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise InvalidOptionError(f"{key}: {value!r} is no mapping; write one 'key: value' a line below it")
    return value


def text(key: str, value: object) -> str:
    """InvalidOptionError for what is none."""
    if not isinstance(value, str):
        raise InvalidOptionError(f"{key}: {value!r} is no name; write one")
    return value


def number(key: str, value: object, *, is_whole: bool, least: float = 1) -> float:
    """From ``least`` up; InvalidOptionError for what is none."""
    kinds = (int,) if is_whole else (int, float)
    if type(value) not in kinds or not least <= value < float("inf"):  # type: ignore[operator]  # it is a number
        raise InvalidOptionError(f"{key}: {value!r} is no {'whole ' * is_whole}number from {least} up")
    return float(value)  # type: ignore[arg-type]  # it is a number


def read_tiers(given: Mapping[str, object]) -> dict[str, int]:
    """Bytes by level; InvalidOptionError for a level or a size that cannot be."""
    check_keys("tiers.", given, LEVELS)
    tiers = {}
    for name, value in given.items():
        try:
            tiers[name] = parse_size(str(value))
        except InvalidOptionError as error:
            raise InvalidOptionError(f"tiers.{name}: {error}") from None
    return tiers
