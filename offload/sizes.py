"""Sizes and counts as people write them: ``64MiB``, ``8GiB``, ``128``."""

import re
from typing import Final

from tiers.errors import InvalidOptionError

_FACTORS: Final = {
    "B": 1,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
_SPELLINGS: Final = {name.lower(): name for name in _FACTORS} | {name[0]: f"{name.upper()}iB" for name in "kmgt"}
_LARGEST: Final = 2**63 - 1
"""Bytes. What file offsets and C libraries can still express."""

_SIZE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)([A-Za-z]+)")
_LOOSE_SIZE: Final = re.compile(r"[+-]?\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)")
_LONGEST_NUMBER: Final = 20
_LONGEST_COUNT: Final = 9


def parse_size(text: str) -> int:
    """The bytes that ``text`` names.

    A number directly followed by a unit (B, KiB, MiB, GiB, TiB, kB, MB, GB, TB), or a whole number of bytes. A fraction
    of a byte is dropped. Raises InvalidOptionError for anything else, with the nearest right spelling.
    """
    if text.isascii() and text.isdecimal() and len(text) <= _LONGEST_NUMBER:
        return _checked(int(text), text)
    match = _SIZE.fullmatch(text)
    if match is None or len(text) > _LONGEST_NUMBER or match[2] not in _FACTORS:
        raise InvalidOptionError(f"{text!r} is not a size; write {_nearest(text)}")
    whole, _, fraction = match[1].partition(".")
    return _checked(int(whole + fraction) * _FACTORS[match[2]] // 10 ** len(fraction), text)


def parse_count(text: str, *, least: int = 0) -> int:
    """The whole number that ``text`` writes in decimal digits; InvalidOptionError if it is none or below ``least``."""
    if text.isascii() and text.isdecimal() and len(text) <= _LONGEST_COUNT and int(text) >= least:
        return int(text)
    raise InvalidOptionError(f"{text!r} is not a count; write a whole number from {least} up")


def format_size(nbytes: int) -> str:
    """``nbytes`` in the largest binary unit that it reaches, to one decimal: ``1.5GiB``, ``64MiB``, ``17B``."""
    unit = next((name for name in ("TiB", "GiB", "MiB", "KiB") if abs(nbytes) >= _FACTORS[name]), "B")
    return f"{nbytes / _FACTORS[unit]:.1f}".removesuffix(".0") + unit


def exact_size(nbytes: int) -> str:
    """``nbytes`` in the largest binary unit of which it is a whole number: ``96GiB``, ``1000001B``."""
    unit = next((name for name in ("TiB", "GiB", "MiB", "KiB") if nbytes and nbytes % _FACTORS[name] == 0), "B")
    return f"{nbytes // _FACTORS[unit]}{unit}"


def _checked(nbytes: int, text: str) -> int:
    if nbytes > _LARGEST:
        raise InvalidOptionError(f"{text!r} is more than any machine has; write a size such as 8GiB")
    return nbytes


def _nearest(text: str) -> str:
    match = _LOOSE_SIZE.fullmatch(text.strip())
    if match is None or len(text) > _LONGEST_NUMBER:
        return "it like 64MiB or 8GiB"
    number, unit = match.groups()
    names = {name.lower(): name for name in _FACTORS} | {
        name[0].lower(): name for name in _FACTORS if name.endswith("iB")
    }
    known = names.get(unit.lower())
    if known is None and unit:
        return f"it like {number}MiB or {number}GiB"
    return f"{number}{known or ''}"
