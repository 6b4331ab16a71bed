"""What a page says about ``offload simulate``: plots by policy, and of a sweep against what was swept."""

from collections.abc import Sequence
from typing import Any

from offload.report.columns import other_figures
from offload.report.drive_section import drive_section
from offload.report.expert_section import expert_section
from offload.report.facts import facts_of
from offload.report.gap_plots import gap_tables
from offload.report.lanes import lanes_table
from offload.report.parts import Section, Table, arrow, number, share
from offload.report.policy_plots import link_names, policy_plots
from offload.report.results import Result, Row
from offload.report.sweep_plots import axis_name, axis_text, sweep_plots, varying
from offload.sizes import format_size
from simulators.scenario import BOUND

_SETTINGS = ("gate", "batch", "arrivals", "speed")


def simulate_section(result: Result) -> Section:
    """Of one file."""
    if "drive" in result.data:
        return drive_section(result)
    if "experts" in result.data:
        return expert_section(result)
    rows = result.rows
    axes = varying(rows)
    facts = facts_of(result, ("scenario", "command", "seed", "workload", "hardware", "model", "tiers", *_SETTINGS))
    facts |= _settings_of_rows(rows)
    wanted = result.data.get("cells", len(rows))
    if wanted != len(rows):
        facts["unfinished"] = f"{len(rows)} of {wanted} cells; the same command with the same --out runs the others"
    plots = sweep_plots(rows, axes) if axes else policy_plots(rows)
    tables = [_figures(rows, axes), _links(rows, axes)]
    if not axes:
        timelines = {row["policy"]: row["timeline"] for row in rows if "timeline" in row}
        tables += gap_tables(rows) + ([lanes_table(timelines)] if timelines else [])
    return Section(f"Simulation: {facts['scenario']}", facts, plots, tables, finding=_finding(rows, axes))


def _finding(rows: Sequence[Row], axes: Sequence[str]) -> str:
    """The best of the policies, in a sentence."""
    real = [row for row in rows if row["policy"] != BOUND and row["hit_ratio"] is not None]
    if not real:
        return ""
    best = max(real, key=lambda row: (row["hit_ratio"], row["tokens_per_s"] or 0.0))
    where = f" with {' and '.join(f'{axis_name(axis)} {axis_text(best, axis)}' for axis in axes)}" if axes else ""
    policies = len(dict.fromkeys(row["policy"] for row in real))
    of_many = f"Of {policies} policies {best['policy']}" if policies > 1 else f"The policy {best['policy']}"
    gap = best["belady_gap"]
    rest = "" if gap is None else f", {100 * gap:.1f} points below what no policy beats"
    if gap is not None and gap < 0.0005:
        rest = ", which no policy beats"
    said = f"{of_many} finds {'most, ' * (policies > 1)}{share(best['hit_ratio'])} of the blocks{where}{rest}"
    speed = best["tokens_per_s"]
    return said + ("." if speed is None else f"; {speed:,.0f} tokens are generated a second.")


def _settings_of_rows(rows: Sequence[Row]) -> dict[str, str]:
    """Of a sweep, whose rows say in which setting they are: all values of each."""
    facts = {}
    for key in ("hardware", "model", *_SETTINGS):
        if all(key in row for row in rows):
            facts[key] = " or ".join(dict.fromkeys(str(row[key]) for row in rows))
    levels = dict.fromkeys(level for row in rows for level in row.get("tiers", {}))
    sizes = {level: dict.fromkeys(axis_text(row, f"tiers.{level}") for row in rows) for level in levels}
    if sizes:
        facts["tiers"] = ", ".join(f"{level} {' or '.join(choices)}" for level, choices in sizes.items())
    return facts


def _figures(rows: Sequence[Row], axes: Sequence[str]) -> Table:
    columns = ("hits", "on device", "gap to Belady", "tokens/s", "TTFT median, s", "TTFT p90, s", "TTFT p99, s")
    others = other_figures(rows)
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
            *(_other(key, row.get(key)) for key in others),
        ]
        for row in rows
    ]
    named = (*map(axis_name, axes), *columns, "stall, s", "elapsed, s", *(key.replace("_", " ") for key in others))
    return Table("Figures", ("policy", *named), cells)


def _other(key: str, value: Any) -> str:
    if key.endswith("_ratio"):
        return share(value)
    return number(value, 0 if type(value) is int else 3)


def _links(rows: Sequence[Row], axes: Sequence[str]) -> Table:
    names = link_names(rows)
    cells = [
        [
            row["policy"],
            *(axis_text(row, axis) for axis in axes),
            *(format_size(row.get("links", {}).get(name) or 0) for name in names),
            format_size(row["bytes"] or 0),
        ]
        for row in rows
    ]
    return Table("Bytes moved", ("policy", *map(axis_name, axes), *map(arrow, names), "all links"), cells)
