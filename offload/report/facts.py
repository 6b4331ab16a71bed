"""What a page says of a file before its numbers: the command, the machine, the seed."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from offload.report.results import Result
from offload.sizes import format_size

_MISSING = "not recorded in this file"


def facts_of(result: Result, keys: Sequence[str]) -> dict[str, str]:
    """The file's name and these keys of it; what it lacks is said to be missing."""
    facts = {"file": result.path.name}
    return facts | {key: _told(key, result.data[key]) if key in result.data else _MISSING for key in keys}


def _told_tiers(tiers: Mapping[str, Any]) -> str:
    """``device 40GiB, host 1TiB``."""
    return ", ".join(f"{name} {format_size(nbytes)}" for name, nbytes in tiers.items())


def _told(key: str, value: Any) -> str:
    match value:
        case None:
            return "none: nothing is drawn at random" if key == "seed" else "none"
        case dict() if key == "tiers" and all(isinstance(one, int) for one in value.values()):
            return _told_tiers(value)
        case dict():
            return ", ".join(f"{name.replace('_', ' ')}: {_told(name, one)}" for name, one in value.items())
        case int() if key.endswith("bytes"):
            return format_size(value)
        case list():
            return json.dumps(value)
        case _:
            return str(value)
