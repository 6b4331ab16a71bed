"""Reads what ``--json`` printed and knows which command it was. What does not fit is said with the file and the key."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from tiers.errors import InvalidOptionError

Row = Mapping[str, Any]


class Kind(Enum):
    """The command whose answer a file holds, as people call it."""

    SIMULATE = "simulate"
    BENCH = "bench"
    RUN = "run"


@dataclass(frozen=True, slots=True)
class Result:
    """One file. ``data`` has the keys of its kind, of the right types."""

    path: Path
    kind: Kind
    data: Mapping[str, Any]

    @property
    def rows(self) -> list[Row]:
        """None of a run."""
        rows: list[Row] = self.data.get("rows", [])
        return rows


_ROWS: Mapping[Kind, tuple[tuple[str, ...], tuple[str, ...]]] = {
    Kind.SIMULATE: (("policy",), ("hit_ratio", "tokens_per_s", "ttft_s", "bytes", "stall_s", "belady_gap")),
    Kind.BENCH: (("name", "unit"), ("ours",)),
}
"""Texts and numbers that every row has."""

_RUN = ("prefill_s", "decode_tokens_per_s", "hit_ratio", "stall_s", "roofline_s", "efficiency")


def read_result(path: Path) -> Result:
    """The answer of ``offload simulate``, ``bench`` or ``run`` in a file; InvalidOptionError if it is none of them."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidOptionError(f"{path}: {error.strerror or error}; name a file that --json wrote") from None
    except (ValueError, RecursionError):
        raise InvalidOptionError(f"{path}: is no JSON; name a file that --json wrote") from None
    kind = _kind(path, data)
    if kind is Kind.RUN:
        _check_run(path, data)
    else:
        _check_rows(path, kind, data["rows"])
    return Result(path, kind, data)


def _kind(path: Path, data: Any) -> Kind:
    if isinstance(data, dict):
        if {"token_ids", "tiers", "links"} <= data.keys():
            return Kind.RUN
        rows = data.get("rows")
        if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
            if "name" in rows[0] and "ours" in rows[0]:
                return Kind.BENCH
            if "policy" in rows[0]:
                return Kind.SIMULATE
    raise InvalidOptionError(f"{path}: is no answer of 'offload simulate', 'bench' or 'run' with --json")


def _check_rows(path: Path, kind: Kind, rows: list[Row]) -> None:
    texts, numbers = _ROWS[kind]
    for i, row in enumerate(rows):
        _check(path, f"rows[{i}].", row, texts, numbers)
        if kind is Kind.BENCH:
            continue
        _check(path, f"rows[{i}].", row, (), tuple({"batch", "elapsed_s"} & row.keys()))
        for key in ("ttft_percentiles_s", "links", "tiers"):
            values = row.get(key, {})
            if not isinstance(values, dict):
                raise InvalidOptionError(f"{path}: rows[{i}].{key}: {values!r} is no mapping of names to numbers")
            _check(path, f"rows[{i}].{key}.", values, (), tuple(values))


def _check_run(path: Path, data: Mapping[str, Any]) -> None:
    _check(path, "", data, (), _RUN)
    for group, keys in (("tiers", ("capacity_bytes", "peak_bytes")), ("links", ("bytes", "busy_s"))):
        if not isinstance(data[group], dict) or not all(isinstance(one, dict) for one in data[group].values()):
            raise InvalidOptionError(f"{path}: {group}: is no mapping of names to figures")
        for name, one in data[group].items():
            _check(path, f"{group}.{name}.", one, (), keys)


def _check(path: Path, where: str, given: Row, texts: tuple[str, ...], numbers: tuple[str, ...]) -> None:
    """A number may be null, which is how JSON writes an infinite one."""
    for key in (*texts, *numbers):
        if key not in given:
            raise InvalidOptionError(f"{path}: {where}{key} is missing; name a file that --json wrote")
        value, is_text = given[key], key in texts
        is_right = isinstance(value, str) if is_text else value is None or type(value) in (int, float)
        if not is_right:
            kind = "text" if is_text else "number"
            raise InvalidOptionError(f"{path}: {where}{key}: {value!r} is no {kind}")
