"""What a page says of a scenario with computing drives: speed, bytes and energy, beside tiers that only hold."""

from collections.abc import Mapping, Sequence

from offload.report.facts import facts_of
from offload.report.figures import bars, lines
from offload.report.parts import Figure, Plot, Section, Table, arrow, number, share, short
from offload.report.results import Result, Row
from offload.sizes import format_size

_METRICS = (
    ("tokens_per_s", "Generated tokens per second", "tokens/s", "Over the whole workload. Higher is better."),
    ("ttft_s", "Time to first token", "seconds", "Of the whole batch. Lower is better."),
    ("bytes", "Bytes over all links", "GiB", "Between GPU, host and drives, over the whole workload."),
    ("energy_j_per_token", "Energy of a token", "joules", "All parts together, idle ones too. Lower is better."),
)
_GIB = 2**30


def drive_section(result: Result) -> Section:
    """Of one file."""
    rows = [row for row in result.rows if row["tokens_per_s"] is not None]
    facts = facts_of(result, ("scenario", "command", "seed", "workload", "hardware", "model", "drive"))
    axes = [axis.removeprefix("drive.") for axis in result.data.get("axes", ())]
    left_out = len(result.rows) - len(rows)
    if left_out:
        facts["out of memory"] = f"{left_out} of {len(result.rows)} cells"
    plots = [
        Plot(title, reading, _figure(rows, axes, key, unit))
        for key, title, unit, reading in _METRICS
        if any(row.get(key) for row in rows)
    ]
    title = f"Computing drives: {facts['scenario']}"
    return Section(title, facts, plots, [_figures(rows, axes), _links(rows, axes)], finding=_finding(rows))


def _finding(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    best = max(rows, key=lambda row: row["tokens_per_s"])
    setting = f"batch {best['batch']}, {best['drives']} drive{'s' * (best['drives'] > 1)}"
    said = f"Fastest is '{best['policy']}' with {short(best['tokens_per_s'])} tokens/s ({setting})"
    same = [r for r in rows if r["engine"] is None and all(r[k] == best[k] for k in ("hardware", "model", "batch"))]
    if not same or best["engine"] is None:
        return f"{said}."
    other = max(row["tokens_per_s"] for row in same)
    return f"{said}; tiers that only hold reach {short(other)} there."


def _figure(rows: Sequence[Row], axes: Sequence[str], key: str, unit: str) -> Figure:
    """Bars, or lines over the number of drives or the batch where these were swept."""
    scale = 1 / _GIB if key == "bytes" else 1.0
    x_axis = next((axis for axis in ("drives", "batch") if axis in axes), None)
    if x_axis is None:
        names = [_named(row, axes) for row in rows]
        return bars(names, {key: [_times(row[key], scale) for row in rows]}, unit)
    others = [axis for axis in axes if axis != x_axis]
    series: dict[str, tuple[list[float | str], list[float | None]]] = {}
    for row in rows:
        x, y = series.setdefault(_named(row, others), ([], []))
        x.append(row[x_axis])
        y.append(_times(row[key], scale))
    return lines(series, x_axis, unit)


def _named(row: Row, axes: Sequence[str]) -> str:
    told = [f"{axis} {row[axis]}" for axis in axes if axis in row and axis != "compression"]
    return ", ".join([row["policy"], *told])


def _figures(rows: Sequence[Row], axes: Sequence[str]) -> Table:
    cells = [
        [
            _named(row, axes),
            number(row["tokens_per_s"]),
            number(row["ttft_s"]),
            number(row["step_s"], 3),
            share(row["kv_share"]),
            number(row["stall_s"], 1),
            format_size(row["flash_read_bytes"]),
            format_size(row["flash_written_bytes"]),
            number(row["energy_j_per_token"]),
        ]
        for row in rows
    ]
    columns = ("tokens/s", "TTFT, s", "step, s", "for KV", "stall, s", "flash read", "flash written", "J/token")
    return Table("Figures", ("cache", *columns), cells)


def _links(rows: Sequence[Row], axes: Sequence[str]) -> Table:
    names = list(dict.fromkeys(name for row in rows for name in row["links"]))
    cells = [[_named(row, axes), *(_size(row["links"], name) for name in names)] for row in rows]
    return Table("Bytes moved", ("cache", *map(arrow, names)), cells)


def _size(links: Mapping[str, int], name: str) -> str:
    return format_size(links[name]) if name in links else "–"


def _times(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale
