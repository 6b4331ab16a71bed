"""Reads what ``--json`` printed and knows which command it was. What does not fit is said with the file and the key."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from offload.report.checks import check_events, check_gap, check_numbers, check_timeline, check_values
from tiers.errors import InvalidOptionError

Row = Mapping[str, Any]


class Kind(Enum):
    """The command whose answer a file holds, as people call it."""

    SIMULATE = "simulate"
    BENCH = "bench"
    RUN = "run"
    TRACE_INFO = "trace info"
    TRACE_EVENTS = "run --trace-out"
    TUNE = "tune"


@dataclass(frozen=True, slots=True)
class Result:
    """One file. ``data`` has the keys of its kind, of the right types."""

    path: Path
    kind: Kind
    data: Mapping[str, Any]

    @property
    def rows(self) -> list[Row]:
        """None of what has none."""
        rows: list[Row] = self.data.get("rows", [])
        return rows


_NUMBERS: Mapping[Kind, tuple[str, ...]] = {
    Kind.RUN: ("prefill_s", "decode_tokens_per_s", "hit_ratio", "stall_s", "roofline_s", "efficiency"),
    Kind.TRACE_INFO: ("requests", "accesses", "unique_blocks", "ideal_hit_ratio"),
}
"""That the answer itself has."""

_ROWS: Mapping[Kind, tuple[tuple[str, ...], tuple[str, ...]]] = {
    Kind.SIMULATE: (("policy",), ("hit_ratio", "tokens_per_s", "ttft_s", "bytes", "stall_s", "belady_gap")),
    Kind.BENCH: (("name", "unit"), ("ours",)),
}
"""Texts and numbers that every row has."""


def read_result(path: Path) -> Result:
    """The answer of a command, or the trace of a run, in a file; InvalidOptionError if it is none of them."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidOptionError(f"{path}: {error.strerror or error}; name a file that --json wrote") from None
    except (ValueError, RecursionError):
        raise InvalidOptionError(f"{path}: is no JSON; name a file that --json wrote") from None
    kind = _kind(path, data)
    check_values(path, "", data, (), _NUMBERS.get(kind, ()))
    if kind is Kind.RUN:
        _check_run(path, data)
    elif kind is Kind.TRACE_EVENTS:
        check_events(path, data["traceEvents"])
    elif kind is Kind.TUNE:
        _check_trials(path, data["trials"])
    elif kind is Kind.TRACE_INFO:
        _check_layers(path, data.get("per_layer", []))
    elif kind in _ROWS:
        _check_rows(path, kind, data["rows"])
    return Result(path, kind, data)


def _kind(path: Path, data: Any) -> Kind:
    if isinstance(data, dict):
        if {"token_ids", "tiers", "links"} <= data.keys():
            return Kind.RUN
        if isinstance(data.get("traceEvents"), list):
            return Kind.TRACE_EVENTS
        if _are_mappings(data.get("trials")):
            return Kind.TUNE
        if {"requests", "accesses", "unique_blocks"} <= data.keys():
            return Kind.TRACE_INFO
        rows = data.get("rows", [])
        if _are_mappings(rows):
            if "name" in rows[0] and "ours" in rows[0]:
                return Kind.BENCH
            if "policy" in rows[0]:
                return Kind.SIMULATE
    raise InvalidOptionError(
        f"{path}: is no answer of 'offload simulate', 'bench', 'run', 'trace info' or 'tune' with --json"
    )


def _check_rows(path: Path, kind: Kind, rows: list[Row]) -> None:
    texts, numbers = _ROWS[kind]
    for i, row in enumerate(rows):
        where = f"rows[{i}]"
        check_values(path, f"{where}.", row, texts, numbers)
        if kind is Kind.BENCH:
            continue
        check_values(path, f"{where}.", row, (), tuple({"batch", "speed", "elapsed_s"} & row.keys()))
        for key in ("ttft_percentiles_s", "links", "tiers"):
            check_numbers(path, f"{where}.{key}", row.get(key, {}))
        for percent in row.get("ttft_percentiles_s", {}):
            if not percent.replace(".", "", 1).isdecimal():
                raise InvalidOptionError(f"{path}: {where}.ttft_percentiles_s: {percent!r} is no percentage")
        if "timeline" in row:
            check_timeline(path, f"{where}.timeline", row["timeline"])
        if "gap" in row:
            check_gap(path, f"{where}.gap", row["gap"])
    limits = [{kind: by["up_to"] for kind, by in row["gap"]["by"].items()} for row in rows if "gap" in row]
    if any(other != limits[0] for other in limits):
        raise InvalidOptionError(f"{path}: rows have gaps of different traces; name a file that --json wrote")


def _check_run(path: Path, data: Mapping[str, Any]) -> None:
    for group, keys in (("tiers", ("capacity_bytes", "peak_bytes")), ("links", ("bytes", "busy_s"))):
        if not _are_mappings([*data[group].values()] if isinstance(data[group], dict) else None, least=0):
            raise InvalidOptionError(f"{path}: {group}: is no mapping of names to figures")
        for name, one in data[group].items():
            check_values(path, f"{group}.{name}.", one, (), keys)
    if data.get("timeline") is not None:
        check_timeline(path, "timeline", data["timeline"])


def _check_layers(path: Path, rows: Any) -> None:
    if not _are_mappings(rows, least=0):
        raise InvalidOptionError(f"{path}: per_layer: is no list of rows")
    for i, row in enumerate(rows):
        check_values(path, f"per_layer[{i}].", row, (), ("layer", *row))


def _check_trials(path: Path, trials: list[Row]) -> None:
    for i, trial in enumerate(trials):
        check_values(path, f"trials[{i}].", trial, (), ("value",))
        if not isinstance(trial.get("settings", {}), dict):
            raise InvalidOptionError(f"{path}: trials[{i}].settings: {trial['settings']!r} is no mapping")


def _are_mappings(values: Any, least: int = 1) -> bool:
    return isinstance(values, list) and len(values) >= least and all(isinstance(one, dict) for one in values)
