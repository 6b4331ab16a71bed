"""The results of a scenario or a sweep as a table. Takes what ``--json`` prints."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from offload.render import plain_table
from offload.report.sweep_plots import axis_text
from offload.sizes import format_size

_LEGEND = (
    "hits: blocks of prompts that some tier held. near: that were on the device already. TTFT: seconds until the first "
    "token, those in the queue included, median and 99th percentile. stall: seconds in which the device waited. "
    "gap: to what no policy beats."
)


def simulation_tables(data: Mapping[str, Any]) -> list[Table | Text]:
    """A row a policy; the last one is the bound. Of a sweep such a table for each setting, which is named above it."""
    axes = list(data.get("axes", ()))
    settings: dict[str, list[Mapping[str, Any]]] = {}
    for row in data["rows"]:
        settings.setdefault(", ".join(f"{axis} {axis_text(row, axis)}" for axis in axes), []).append(row)
    shown: list[Table | Text] = []
    for setting, rows in settings.items():
        shown += [Text(setting), _table(rows)] if setting else [_table(rows)]
    return [*shown, Text(_LEGEND, style="dim")]


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = plain_table("policy", "hits", "near", "tokens/s", "queue", "TTFT", "p99", "moved", "stall", "gap")
    for row in rows:
        table.add_row(
            row["policy"],
            f"{row['hit_ratio']:.1%}",
            f"{row['device_hit_ratio']:.1%}",
            f"{row['tokens_per_s']:,.1f}",
            f"{row['queue_s']:,.1f}",
            f"{row['ttft_s']:,.2f}",
            f"{row['ttft_p99_s']:,.1f}",
            format_size(row["bytes"]),
            f"{row['stall_s']:,.0f}",
            f"{row['belady_gap']:.1%}",
        )
    return table
