"""What a page says of a scenario of experts: hits, speed and bytes by policy and predictor, beside their bounds."""

from collections.abc import Sequence

from offload.report.facts import facts_of
from offload.report.figures import bars, lines
from offload.report.parts import Figure, Plot, Section, Table, number, share, short
from offload.report.results import Result, Row
from offload.report.sweep_plots import axis_name, axis_text, varying
from offload.sizes import format_size
from simulators.expert_experiment import BELADY, PERFECT

_GIB = 2**30
_METRICS = (
    ("hit_ratio", "Hit ratio", "% of experts asked for", "Experts on the device, or on their way, when needed.", 100.0),
    ("tokens_per_s", "Generated tokens per second", "tokens/s", "While decoding. Higher is better.", 1.0),
    ("stall_s", "Stall", "seconds", "Seconds of waiting for experts. Lower is better.", 1.0),
    ("bytes", "Bytes over all links", "GiB", "What was moved while decoding. Lower is better.", 1 / _GIB),
    ("wasted_bytes", "Wasted bytes", "GiB", "Fetched ahead and not used. Lower is better.", 1 / _GIB),
    ("energy_j_per_token", "Energy of a token", "joules", "All parts together. Lower is better.", 1.0),
)


def expert_section(result: Result) -> Section:
    """Of one file."""
    rows, axes = result.rows, varying(result.rows)
    facts = facts_of(result, ("scenario", "command", "seed", "experts", "hardware", "model", "tiers"))
    plots = [
        Plot(title + (f" against {axis_name(_x_axis(axes))}" if axes else ""), reading, figure)
        for key, title, unit, reading, scale in _METRICS
        if (figure := _figure(rows, axes, key, unit, scale)) is not None
    ]
    title = f"Experts: {facts['scenario']}"
    return Section(title, facts, plots, [_figures(rows, axes)], finding=_finding(rows, axes))


def _finding(rows: Sequence[Row], axes: Sequence[str]) -> str:
    real = [row for row in rows if row["policy"] not in (BELADY, PERFECT)]
    if not real:
        return ""
    best = max(real, key=lambda row: (row["tokens_per_s"] or 0.0, row["hit_ratio"] or 0.0))
    where = "".join(f", {axis_name(axis)} {axis_text(best, axis)}" for axis in axes)
    same = [row for row in rows if row["policy"] == PERFECT and all(_same(row, best, axis) for axis in axes)]
    rest = f"; perfect prefetching would reach {short(same[0]['tokens_per_s'])}" if same else ""
    return f"Fastest is '{best['policy']}' with {short(best['tokens_per_s'])} tokens/s{where}{rest}."


def _same(row: Row, other: Row, axis: str) -> bool:
    return axis_text(row, axis) == axis_text(other, axis)


def _x_axis(axes: Sequence[str]) -> str:
    return min(axes, key=lambda axis: not axis.startswith("tiers."))


def _figure(rows: Sequence[Row], axes: Sequence[str], key: str, unit: str, scale: float) -> Figure | None:
    """Bars, or lines over the capacity where that was swept; None where nobody knows the figure."""
    if all(row.get(key) is None for row in rows):
        return None
    values = [None if row.get(key) is None else row[key] * scale for row in rows]
    x_axis = _x_axis(axes) if axes else ""
    if not x_axis.startswith("tiers."):
        return bars([_named(row, axes) for row in rows], {key.replace("_", " "): values}, unit)
    level = x_axis.partition(".")[2]
    others = [axis for axis in axes if axis != x_axis]
    points: dict[str, list[tuple[float, float | None]]] = {}
    for row, value in zip(rows, values, strict=True):
        points.setdefault(_named(row, others), []).append((row.get("tiers", {}).get(level, 0) / _GIB, value))
    series: dict[str, tuple[list[float | str], list[float | None]]] = {}
    for name, found in points.items():
        found.sort(key=lambda point: point[0])
        series[name] = [x for x, _ in found], [y for _, y in found]
    return lines(series, f"{axis_name(x_axis)}, GiB", unit, muted=BELADY)


def _named(row: Row, axes: Sequence[str]) -> str:
    return ", ".join([row["policy"], *(f"{axis_name(axis)} {axis_text(row, axis)}" for axis in axes)])


def _figures(rows: Sequence[Row], axes: Sequence[str]) -> Table:
    cells = [
        [
            _named(row, axes),
            *(share(row.get(key)) for key in ("hit_ratio", "prefetched_ratio", "late_ratio", "belady_gap")),
            number(row["tokens_per_s"]),
            number(row["stall_s"], 1),
            format_size(row["bytes"] or 0),
            format_size(row.get("wasted_bytes") or 0),
            number(row.get("energy_j_per_token")),
            number(row.get("price_per_million_tokens")),
        ]
        for row in rows
    ]
    columns = ("hits", "fetched ahead", "late", "gap to Belady", "tokens/s", "stall, s", "moved", "wasted")
    return Table("Figures", ("policy and predictor", *columns, "J/token", "$/M tokens"), cells)
