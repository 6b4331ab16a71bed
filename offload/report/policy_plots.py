"""Plots of one setting, policy by policy."""

from collections.abc import Sequence

from offload.report.columns import figures_to_plot
from offload.report.figures import bars, lines
from offload.report.gap_plots import gap_plots
from offload.report.lanes import lanes
from offload.report.parts import Figure, Plot, arrow
from offload.report.results import Row
from simulators.scenario import BOUND

_GIB = 2**30


def policy_plots(rows: Sequence[Row]) -> list[Plot]:
    """What was found, what it was worth, where the gap comes from, and what was busy when."""
    return [*_hits(rows), *_speed(rows), *gap_plots(rows), *_work(rows), *_others(rows), *_timelines(rows)]


def link_names(rows: Sequence[Row]) -> list[str]:
    """Of all links that any row has bytes of."""
    return list(dict.fromkeys(name for row in rows for name in row.get("links", {})))


def _hits(rows: Sequence[Row]) -> list[Plot]:
    names = [row["policy"] for row in rows]
    ratios = {"on any tier": _percent(rows, "hit_ratio")}
    if all("device_hit_ratio" in row for row in rows):
        ratios["of these, on the device already"] = _percent(rows, "device_hit_ratio")
    plots = [
        Plot(
            "Hit ratio by policy",
            "Blocks of prompts that were held. No policy gets past the dashed line, which is Belady's.",
            bars(names, ratios, "% of blocks asked for", line_at=_most_hits(rows)),
        )
    ]
    others = [row for row in rows if row["policy"] != BOUND]
    if any(row["belady_gap"] for row in others):
        gaps = {"gap": _percent(others, "belady_gap")}
        gap = bars([row["policy"] for row in others], gaps, "percentage points of hit ratio")
        plots.append(Plot("Gap to Belady", "Hits that knowing the future would add. Shorter is better.", gap))
    return plots


def _speed(rows: Sequence[Row]) -> list[Plot]:
    names = [row["policy"] for row in rows]
    speed = bars(names, {"tokens/s": [row["tokens_per_s"] for row in rows]}, "tokens/s")
    plots = [Plot("Generated tokens per second", "Over the whole workload. Longer is better.", speed)]
    timed = {row["policy"]: _distribution(row) for row in rows if row.get("ttft_percentiles_s")}
    if timed:
        reading = "How many requests have their first token within so many seconds. Further left is better."
        figure = lines(timed, "seconds, log scale", "% of requests", log_x=True, muted=BOUND)
        plots.append(Plot("Time to first token", reading, figure))
    return plots


def _work(rows: Sequence[Row]) -> list[Plot]:
    names = [row["policy"] for row in rows]
    plots = [Plot("Bytes per link", "What the policy made the links move.", _link_bars(rows, names))]
    if all("elapsed_s" in row for row in rows):
        busy = [_minus(row["elapsed_s"], row["stall_s"]) for row in rows]
        time = {"all others": busy, "waiting for blocks (stall)": [row["stall_s"] for row in rows]}
        reading = "Virtual seconds for the whole workload: those in which the device waits for blocks, and all others."
        plots.append(Plot("Where the time goes", reading, bars(names, time, "seconds", stacked=True)))
    else:
        stall = bars(names, {"stall": [row["stall_s"] for row in rows]}, "seconds")
        plots.append(Plot("Stall", "Seconds in which the device waits for blocks. Shorter is better.", stall))
    return plots


def _others(rows: Sequence[Row]) -> list[Plot]:
    names = [row["policy"] for row in rows]
    return [
        Plot(title, "A figure of each row of the results.", bars(names, {title: [row.get(key) for row in rows]}, unit))
        for key, title, unit in figures_to_plot(rows)
    ]


def _timelines(rows: Sequence[Row]) -> list[Plot]:
    """One a policy; the first is open."""
    told = [row for row in rows if "timeline" in row]
    reading = (
        "The stronger the colour, the larger the share of that moment in which the device computed or waited, or a "
        "link moved blocks. Below: how full the tiers were, and how many blocks had to leave."
    )
    return [
        Plot(f"What happened when: {row['policy']}", reading, lanes(row["timeline"], "virtual time"), folded=i > 0)
        for i, row in enumerate(told)
    ]


def _link_bars(rows: Sequence[Row], names: Sequence[str]) -> Figure:
    moved = {
        arrow(link): [(row.get("links", {}).get(link) or 0) / _GIB for row in rows] for link in link_names(rows)
    } or {"all": [(row["bytes"] or 0) / _GIB for row in rows]}
    return bars(names, moved, "GiB", stacked=True)


def _distribution(row: Row) -> tuple[list[float | str], list[float | None]]:
    points = [(seconds, float(percent)) for percent, seconds in row["ttft_percentiles_s"].items() if seconds]
    return [seconds for seconds, _ in points], [percent for _, percent in points]


def _most_hits(rows: Sequence[Row]) -> float | None:
    """In %. Not that of the bound's own row: where answers run side by side these hold blocks that it would evict."""
    told = [row for row in rows if row["policy"] == BOUND and None not in (row["hit_ratio"], row["belady_gap"])]
    return next((100 * (row["hit_ratio"] + row["belady_gap"]) for row in told), None)


def _percent(rows: Sequence[Row], key: str) -> list[float | None]:
    return [None if row[key] is None else 100 * row[key] for row in rows]


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
