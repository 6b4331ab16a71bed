"""What a page says about ``offload simulate``: plots by policy, and of a sweep against what was swept."""

from collections.abc import Mapping, Sequence
from typing import Any

from offload.report.facts import facts_of
from offload.report.figures import bars, lines
from offload.report.parts import Plot, Section, Table, number, share
from offload.report.results import Result, Row
from offload.report.sweep_plots import axis_text, sweep_plots, varying
from offload.sizes import format_size
from simulators.scenario import BOUND

_GIB = 2**30


def simulate_section(result: Result) -> Section:
    """Of one file."""
    rows = result.rows
    axes = varying(rows)
    facts = facts_of(result, ("scenario", "command", "seed", "workload", "hardware", "model", "tiers", "gate", "batch"))
    facts |= _settings_of_rows(rows)
    wanted = result.data.get("cells", len(rows))
    if wanted != len(rows):
        facts["unfinished"] = f"{len(rows)} of {wanted} cells; the same command with the same --out runs the others"
    plots = sweep_plots(rows, axes) if axes else _plots(rows)
    return Section(f"Simulation: {facts['scenario']}", facts, plots, [_figures(rows, axes), _links(rows, axes)])


def _settings_of_rows(rows: Sequence[Row]) -> dict[str, str]:
    """Of a sweep, whose rows say in which setting they are: all values of each."""
    facts = {}
    for key in ("hardware", "model", "gate", "batch"):
        if all(key in row for row in rows):
            facts[key] = " or ".join(dict.fromkeys(str(row[key]) for row in rows))
    levels = dict.fromkeys(level for row in rows for level in row.get("tiers", {}))
    sizes = {level: dict.fromkeys(axis_text(row, f"tiers.{level}") for row in rows) for level in levels}
    if sizes:
        facts["tiers"] = ", ".join(f"{level} {' or '.join(choices)}" for level, choices in sizes.items())
    return facts


def _plots(rows: Sequence[Row]) -> list[Plot]:
    names = [row["policy"] for row in rows]
    bound = next((row["hit_ratio"] for row in rows if row["policy"] == BOUND), None)
    ratios = {"on any tier": _percent(rows, "hit_ratio")}
    if all("device_hit_ratio" in row for row in rows):
        ratios["of these, on the device already"] = _percent(rows, "device_hit_ratio")
    others = [row for row in rows if row["policy"] != BOUND]
    plots = [
        Plot(
            "Hit ratio by policy",
            "Blocks of prompts that were held. No policy gets past the dotted line, which is Belady's.",
            bars(names, ratios, "% of blocks asked for", line_at=None if bound is None else 100 * bound),
        ),
        Plot("Generated tokens per second", "Longer is better.", bars(names, _one(rows, "tokens_per_s"), "tokens/s")),
    ]
    if others:
        gaps = {"gap": _percent(others, "belady_gap")}
        gap = bars([row["policy"] for row in others], gaps, "percentage points of hit ratio")
        plots.insert(1, Plot("Gap to Belady", "Hits that knowing the future would add. Shorter is better.", gap))
    timed = {row["policy"]: _distribution(row) for row in rows if row.get("ttft_percentiles_s")}
    if timed:
        reading = "How many requests have their first token within so many seconds of having the device."
        figure = lines(timed, "seconds, logarithmic", "% of requests", log_x=True)
        plots.append(Plot("Time to first token", reading, figure))
    plots.append(Plot("Bytes per link", "What the policy made the links move.", _link_bars(rows, names)))
    if all("elapsed_s" in row for row in rows):
        busy = [_minus(row["elapsed_s"], row["stall_s"]) for row in rows]
        time = {"computing": busy, "waiting for blocks (stall)": [row["stall_s"] for row in rows]}
        reading = "Virtual seconds for the whole workload, in which the device computes or waits."
        plots.append(Plot("Where the time goes", reading, bars(names, time, "seconds", stacked=True)))
    else:
        plots.append(Plot("Stall", "Waiting for blocks.", bars(names, _one(rows, "stall_s"), "seconds")))
    return plots


def _figures(rows: Sequence[Row], axes: Sequence[str]) -> Table:
    columns = ("hits", "on device", "gap to Belady", "tokens/s", "TTFT median, s", "TTFT p90, s", "TTFT p99, s")
    cells = [
        [
            row["policy"],
            *(axis_text(row, axis) for axis in axes),
            share(row["hit_ratio"]),
            share(row.get("device_hit_ratio")),
            share(row["belady_gap"]),
            number(row["tokens_per_s"]),
            *(number(row.get(key), 3) for key in ("ttft_s", "ttft_p90_s", "ttft_p99_s")),
            number(row["stall_s"], 1),
            number(row.get("elapsed_s"), 1),
        ]
        for row in rows
    ]
    return Table("Figures", ("policy", *axes, *columns, "stall, s", "elapsed, s"), cells)


def _links(rows: Sequence[Row], axes: Sequence[str]) -> Table:
    names = _link_names(rows)
    cells = [
        [
            row["policy"],
            *(axis_text(row, axis) for axis in axes),
            *(format_size(row.get("links", {}).get(name) or 0) for name in names),
            format_size(row["bytes"] or 0),
        ]
        for row in rows
    ]
    return Table("Bytes moved", ("policy", *axes, *names, "all links"), cells)


def _link_bars(rows: Sequence[Row], names: Sequence[str]) -> Mapping[str, Any]:
    links = _link_names(rows)
    moved = {link: [(row.get("links", {}).get(link) or 0) / _GIB for row in rows] for link in links}
    return bars(names, moved or {"all": [(row["bytes"] or 0) / _GIB for row in rows]}, "GiB", stacked=True)


def _link_names(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.get("links", {})))


def _distribution(row: Row) -> tuple[list[float | str], list[float | None]]:
    points = [
        (seconds, float(percent)) for percent, seconds in row["ttft_percentiles_s"].items() if seconds is not None
    ]
    return [seconds for seconds, _ in points], [percent for _, percent in points]


def _percent(rows: Sequence[Row], key: str) -> list[float | None]:
    return [None if row[key] is None else 100 * row[key] for row in rows]


def _one(rows: Sequence[Row], key: str) -> dict[str, list[float | None]]:
    return {key: [row[key] for row in rows]}


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
