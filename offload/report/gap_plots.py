"""Plots of where the gap to Belady comes from."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import log10
from typing import Any

from offload.report.figures import FAINT, MUTED, axis, bars, cells, colour, layout, lines
from offload.report.parts import Figure, Plot, Table, share
from offload.report.results import Row
from offload.sizes import format_size
from simulators.scenario import BOUND

_GIB = 2**30
_POINTS = "points of hit ratio"

_KINDS: Sequence[tuple[str, str, str]] = (
    ("reuse_distance", "reuse distance", "reuse distance, up to"),
    ("prefix_depth", "place in the prompt", "block of the prompt"),
    ("session_age_s", "age of the conversation", "since the first request"),
)


def gap_plots(rows: Sequence[Row]) -> list[Plot]:
    """Of the rows that tell; none where no row does."""
    told = [row for row in rows if "gap" in row]
    if not told:
        return []
    plots = [
        Plot(
            "Found, lost and out of reach",
            "Every block that was asked for, by what became of it. Only what is lost can a better policy win; first "
            "uses nobody finds, and for the rest not even Belady has room.",
            _parts_of_all(told),
        ),
        Plot(
            "Hits by reuse distance",
            "How many of the blocks asked for again were found, by how much else was asked for in between (reuse "
            "distance). Dotted lines: what the tiers hold together. The area below says where the uses are.",
            _by_distance(told),
        ),
    ]
    for kind, title, x_axis in _KINDS:
        names, values = _lost(told, kind)
        if names:
            reading = (
                "What Belady finds and the policy does not, less what only the policy finds. A row adds up to the gap."
            )
            figure = cells([row["policy"] for row in told], names, values, x_axis, _POINTS)
            plots.append(Plot(f"Lost to Belady by {title}", reading, figure))
    return plots


def gap_tables(rows: Sequence[Row]) -> list[Table]:
    """The same figures as text."""
    told = [row for row in rows if "gap" in row]
    if not told:
        return []
    shares = [
        [row["policy"], *(share(value / max(1, row["gap"]["accesses"])) for value in _fates(row))] for row in told
    ]
    tables = [Table("Found, lost and out of reach", ("policy", *_FATES), shares, folded=True)]
    for kind, title, _ in _KINDS:
        names, values = _lost(told, kind)
        if names:
            texts = [
                [row["policy"], *(f"{value:.2f}" for value in line)] for row, line in zip(told, values, strict=True)
            ]
            tables.append(
                Table(f"Lost to Belady by {title}, percentage points", ("policy", *names), texts, folded=True)
            )
    return tables


_FATES = ("found", "lost to Belady", "no room, Belady neither", "first use")


def _fates(row: Row) -> tuple[int, int, int, int]:
    gap = row["gap"]
    return gap["hits"], gap["lost"], gap["accesses"] - gap["hits"] - gap["lost"] - gap["cold"], gap["cold"]


def _parts_of_all(rows: Sequence[Row]) -> Figure:
    columns = zip(*(_fates(row) for row in rows), strict=True)
    series = {
        name: [100 * value / max(1, row["gap"]["accesses"]) for value, row in zip(column, rows, strict=True)]
        for name, column in zip(_FATES, columns, strict=True)
    }
    colours = (colour(0), colour(1), MUTED, FAINT)
    return bars([row["policy"] for row in rows], series, "% of blocks asked for", stacked=True, colours=colours)


def _by_distance(rows: Sequence[Row]) -> Figure:
    series = {row["policy"]: _found_by_distance(row, "hits") for row in rows}
    series[BOUND] = _found_by_distance(rows[0], "ideal_hits")
    drawn = lines(series, "reuse distance, GiB, log scale", "% found", log_x=True, muted=BOUND, height=420)
    x, asked = _places(rows[0]), rows[0]["gap"]["by"]["reuse_distance"]["asked"]
    area = {
        "type": "scatter",
        "mode": "lines",
        "name": "uses",
        "x": x,
        "y": [100 * value / max(1, sum(asked)) for value in asked],
        "yaxis": "y2",
        "fill": "tozeroy",
        "fillcolor": FAINT,
        "line": {"color": MUTED, "shape": "hvh", "width": 1},
        "hovertemplate": "up to %{x:.3~g} GiB: %{y:.3~g} % of the uses<extra></extra>",
    }
    tiers = rows[0].get("timeline", {}).get("slots", {})
    parts = dict(drawn.layout) | {
        "yaxis": axis("% found", range=[0, 104], domain=[0.3, 1]),
        "yaxis2": axis("% of uses", rangemode="tozero", domain=[0, 0.2], nticks=3, fixedrange=True),
        "shapes": [],
        "annotations": [],
        "margin": {**layout(0)["margin"], "t": 80},
    }
    parts["xaxis"] = {**parts["xaxis"], "anchor": "y2"}
    ends = accumulate(slots * rows[0]["gap"]["block_bytes"] / _GIB for slots in tiers.values())
    marks = [(tier, end) for tier, end in zip(tiers, ends, strict=True) if end > 0]
    for i, (tier, end) in enumerate(marks):
        parts["shapes"].append(_mark(end))
        parts["annotations"].append(_mark_name(f"{'+' if i else ''}{tier}", end, i))
    return Figure([*drawn.data, area], parts, drawn.legend, zooms=True)


def _mark(x: float) -> dict[str, Any]:
    line = {"dash": "dot", "color": "var(--soft)", "width": 1}
    return {"type": "line", "x0": x, "x1": x, "y0": 0.3, "y1": 1, "yref": "paper", "line": line}


def _mark_name(text: str, x: float, number: int) -> dict[str, Any]:
    """Above the plot, each higher than the one before: they may be close. Log axes place texts by exponent."""
    return {
        "text": text,
        "x": log10(x),
        "xanchor": "right",
        "y": 1,
        "yref": "paper",
        "yanchor": "bottom",
        "yshift": 15 * number,
        "showarrow": False,
        "font": {"color": "var(--soft)"},
    }


def _found_by_distance(row: Row, key: str) -> tuple[list[float | str], list[float | None]]:
    by = row["gap"]["by"]["reuse_distance"]
    ratios = [100 * found / asked if asked else None for found, asked in zip(by[key], by["asked"], strict=True)]
    kept = [(x, ratio) for x, ratio in zip(_places(row), ratios, strict=True) if ratio is not None]
    return [x for x, _ in kept], [ratio for _, ratio in kept]


def _places(row: Row) -> list[float]:
    gap = row["gap"]
    return [(limit + 1) * gap["block_bytes"] / _GIB for limit in gap["by"]["reuse_distance"]["up_to"]]


def _lost(rows: Sequence[Row], kind: str) -> tuple[list[str], list[list[float]]]:
    """Names of the buckets in which any policy differs from Belady, and by how many points, policy by policy."""
    values = [
        [100 * (a - b) / max(1, row["gap"]["accesses"]) for a, b in zip(by["lost"], by["won"], strict=True)]
        for row in rows
        for by in [row["gap"]["by"][kind]]
    ]
    used = [i for i in range(len(values[0])) if any(line[i] for line in values)]
    if not used:
        return [], []
    kept = range(used[0], used[-1] + 1)
    limits = rows[0]["gap"]["by"][kind]["up_to"]
    names = [_bucket(kind, limits, i, rows[0]["gap"]) for i in kept]
    return names, [[line[i] for i in kept] for line in values]


def _bucket(kind: str, limits: Sequence[float | None], i: int, gap: Mapping[str, Any]) -> str:
    limit = limits[i]
    if kind == "reuse_distance":
        assert limit is not None
        return format_size(int(limit + 1) * gap["block_bytes"])
    if kind == "session_age_s":
        return "later" if limit is None else "first request" if not limit else f"≤ {_time(limit)}"
    assert limit is not None
    first = 1 if not i else int(limits[i - 1] or 0) + 2
    return f"{first}" if limit + 1 == first else f"{first}–{int(limit) + 1}"


def _time(seconds: float) -> str:
    return next(f"{seconds / size:g} {name}" for name, size in (("h", 3600), ("min", 60), ("s", 1)) if seconds >= size)
