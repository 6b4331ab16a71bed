"""The results of a scenario of experts as a table. Takes what ``--json`` prints."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from offload.render import figure, plain_table
from offload.report.sweep_plots import axis_text
from offload.sizes import format_size

_LEGEND = (
    "Of the steps of decoding. hits: experts that were on the device or on their way; ahead: of all, those that were "
    "fetched ahead of their use; late: those still on their way. wasted: fetched ahead and not used. belady: no policy "
    "hits more without fetching ahead; perfect prefetch: as few bytes, while something is computed. Times are those of "
    "links and of a roofline; software costs nothing."
)


def expert_tables(data: Mapping[str, Any]) -> list[Table | Text]:
    """A row for each policy with each predictor; of a sweep such a table for each setting, which is named above it."""
    axes = list(data.get("axes", ()))
    settings: dict[str, list[Mapping[str, Any]]] = {}
    for row in data["rows"]:
        settings.setdefault(", ".join(f"{axis} {axis_text(row, axis)}" for axis in axes), []).append(row)
    shown: list[Table | Text] = []
    for setting, rows in settings.items():
        shown += [Text(setting)] * bool(setting) + [_hits(rows), _costs(rows)]
    return [*shown, Text(_LEGEND, style="dim")]


def _hits(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = plain_table("policy", "hits", "ahead", "late", "tokens/s", "stall", "wasted")
    for row in rows:
        table.add_row(
            row["policy"],
            *(f"{row[key]:.1%}" for key in ("hit_ratio", "prefetched_ratio", "late_ratio")),
            f"{row['tokens_per_s']:,.3g}",
            f"{row['stall_s']:,.1f}",
            format_size(row["wasted_bytes"]),
        )
    return table


def _costs(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What moved, joules of a token and dollars of a million."""
    links = list(dict.fromkeys(name for row in rows for name in row["links"]))
    table = plain_table("policy", *links, "J/token", "$/M tokens")
    for row in rows:
        table.add_row(
            row["policy"],
            *(format_size(row["links"].get(name, 0)) for name in links),
            figure(row["energy_j_per_token"]),
            figure(row["price_per_million_tokens"]),
        )
    return table
