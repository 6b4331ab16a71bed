"""The results of a scenario or a sweep as a table. Takes what ``--json`` prints."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from offload.render import figure, plain_table
from offload.report.sweep_plots import axis_text
from offload.simulation.drive_render import drive_tables
from offload.simulation.expert_render import expert_tables
from offload.sizes import format_size

_LEGEND = (
    "hits: blocks of prompts that some tier held. near: that were on the device already. TTFT: seconds until the first "
    "token, those in the queue included, median and 99th percentile. stall: seconds in which the device waited. "
    "gap: to what no policy beats."
)


def simulation_tables(data: Mapping[str, Any]) -> list[Table | Text]:
    """A row a policy; the last one is the bound. Of a sweep such a table for each setting, which is named above it.

    Under it another one of energy and price, where the hardware's profile knows them.
    """
    if "drive" in data:
        return drive_tables(data)
    if "experts" in data:
        return expert_tables(data)
    axes = list(data.get("axes", ()))
    settings: dict[str, list[Mapping[str, Any]]] = {}
    for row in data["rows"]:
        settings.setdefault(", ".join(f"{axis} {axis_text(row, axis)}" for axis in axes), []).append(row)
    shown: list[Table | Text] = []
    for setting, rows in settings.items():
        shown += [Text(setting), _table(rows)] if setting else [_table(rows)]
        if any(row.get("energy_j_per_token") for row in rows):
            shown.append(_running_costs(rows))
    return [*shown, Text(_LEGEND, style="dim")]


def _running_costs(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Joules of a token, and what of them went where; dollars of a million."""
    parts = list(dict.fromkeys(part for row in rows for part in row["energy_j"] or ()))
    table = plain_table("policy", "J/token", *parts, "$/M tokens")
    for row in rows:
        joules = row["energy_j"] or {}
        total = max(1e-12, sum(joules.values()))
        table.add_row(
            row["policy"],
            figure(row["energy_j_per_token"]),
            *(f"{joules.get(part, 0.0) / total:.1%}" for part in parts),
            figure(row["price_per_million_tokens"]),
        )
    return table


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    is_queued = any(row["queue_p99_s"] for row in rows)  # never where arrivals are closed
    queue = ["queue"] * is_queued
    table = plain_table("policy", "hits", "near", "tokens/s", *queue, "TTFT", "p99", "moved", "stall", "gap")
    for row in rows:
        table.add_row(
            row["policy"],
            f"{row['hit_ratio']:.1%}",
            f"{row['device_hit_ratio']:.1%}",
            f"{row['tokens_per_s']:,.1f}",
            *([f"{row['queue_s']:,.1f}"] * is_queued),
            f"{row['ttft_s']:,.2f}",
            f"{row['ttft_p99_s']:,.1f}",
            format_size(row["bytes"]),
            f"{row['stall_s']:,.0f}",
            f"{row['belady_gap']:.1%}",
        )
    return table
