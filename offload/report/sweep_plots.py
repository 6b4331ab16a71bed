"""Plots of a sweep: lines of policies against what was swept, capacity before all, one plot for each other setting."""

from collections.abc import Mapping, Sequence
from typing import Any

from offload.report.columns import figures_to_plot
from offload.report.figures import lines
from offload.report.parts import Plot
from offload.report.results import Row
from offload.sizes import format_size
from simulators.scenario import BOUND

_Series = Mapping[str, tuple[list[float | str], list[float | None]]]

_NAMED = ("hardware", "model", "gate", "arrivals", "storage", "host_memory")
_GIB = 2**30

_METRICS: Sequence[tuple[str, str, str, str, float]] = (
    (
        "hit_ratio",
        "Hit ratio",
        "% of blocks asked for",
        "Blocks of prompts that were held on any tier, beside what knowing the future gives (belady).",
        100,
    ),
    (
        "belady_gap",
        "Gap to Belady",
        "percentage points",
        "Hits that knowing the future would add. Lower is better.",
        100,
    ),
    ("tokens_per_s", "Generated tokens per second", "tokens/s", "Over the whole workload. Higher is better.", 1),
    ("ttft_s", "Time to first token, median", "seconds", "Half of the requests wait no longer. Lower is better.", 1),
    (
        "ttft_p99_s",
        "Time to first token, 99th percentile",
        "seconds",
        "One request in a hundred waits longer. Lower is better.",
        1,
    ),
    ("stall_s", "Stall", "seconds", "Seconds of waiting for blocks, over the whole workload. Lower is better.", 1),
    ("bytes", "Bytes over all links", "GiB", "What the policy made the links move. Lower is better.", 1 / _GIB),
)


def varying(rows: Sequence[Row]) -> list[str]:
    """What differs from row to row besides the policy: ``hardware``, ``tiers.host``, ..."""
    levels = dict.fromkeys(level for row in rows for level in row.get("tiers", {}))
    axes = ["hardware", "model", *(f"tiers.{level}" for level in levels)]
    axes += ["gate", "batch", "arrivals", "speed", "storage", "host_memory"]
    return [axis for axis in axes if len({axis_text(row, axis) for row in rows}) > 1]


def axis_text(row: Row, axis: str) -> str:
    """Where on an axis a row is, as people write it."""
    value = _place(row, axis)
    return format_size(value) if axis.startswith("tiers.") and isinstance(value, int) else str(value)


def axis_name(axis: str) -> str:
    """What is swept, as people call it: ``host tier``."""
    key, _, level = axis.partition(".")
    return f"{level} tier" if level else key


def sweep_plots(rows: Sequence[Row], axes: Sequence[str]) -> list[Plot]:
    """For each metric and each setting of the other axes, a line a policy against the one that matters most.

    Settings that come out alike, such as machines where hits are counted, share a plot.
    """
    x_axis = min(axes, key=lambda axis: (not axis.startswith("tiers."), axis in _NAMED))
    others = [axis for axis in axes if axis != x_axis]
    settings = dict.fromkeys(tuple(axis_text(row, axis) for axis in others) for row in rows)
    plots = []
    label = axis_name(x_axis) + (", GiB" if x_axis.startswith("tiers.") else "")
    more = [(key, title, unit, "A figure of each row of the results.", 1) for key, title, unit in figures_to_plot(rows)]
    for key, title, unit, reading, factor in (*_METRICS, *more):
        alike: list[tuple[_Series, list[str]]] = []
        for setting in settings:
            chosen = [row for row in rows if tuple(axis_text(row, axis) for axis in others) == setting]
            where = ", ".join(f"{axis_name(axis)} {value}" for axis, value in zip(others, setting, strict=True))
            series = _series(chosen, x_axis, key, factor)
            if all(value is None for _, values in series.values() for value in values):
                continue
            places = next((places for other, places in alike if other == series), None)
            if places is None:
                alike.append((series, [where]))
            else:
                places.append(where)
        for series, places in alike:
            where = "" if len(places) == len(settings) else f": {' or '.join(places)}"
            figure = lines(series, label, unit, muted=BOUND)
            plots.append(Plot(f"{title} against {axis_name(x_axis)}{where}", reading, figure))
    return plots


def _series(rows: Sequence[Row], axis: str, key: str, factor: float) -> _Series:
    """By policy, from left to right."""
    series = {}
    for policy in dict.fromkeys(row["policy"] for row in rows):
        own = [row for row in rows if row["policy"] == policy]
        if axis not in _NAMED:
            own.sort(key=lambda row: float(_place(row, axis) or 0))
        places = [_place(row, axis) for row in own]
        x = [place / _GIB if axis.startswith("tiers.") else place for place in places]
        series[policy] = x, [_times(row.get(key), factor) for row in own]
    return series


def _place(row: Row, axis: str) -> Any:
    key, _, level = axis.partition(".")
    return row.get("tiers", {}).get(level) if level else row.get(key)


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
