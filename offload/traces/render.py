"""The figures of a trace as tables. Takes what ``--json`` prints."""

import math
from collections.abc import Mapping
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from offload.render import plain_table

_COLUMNS: Final = {
    "max_to_mean": "busiest",
    "entropy": "entropy",
    "overlap": "repeated",
    "overlap_by_popularity": "by chance",
    "popularity_recall": "popular",
    "co_occurrence_recall": "together",
    "next_gate_recall": "gate",
}
"""Figures of a layer, and their headings."""

_LEGEND: Final = (
    "busiest: load over the mean load. entropy: of the load, 1 is even. repeated: experts that the token before used "
    "too. Guessed right: popular, the most popular of the trace's first half; together, by what came with those of "
    "the layer before; gate, by the layer's own on what the one before was given."
)


def trace_tables(data: Mapping[str, Any]) -> list[Table | Text]:
    """How much was recorded, then a row a layer: load, locality, and the share that each kind of guess gets right."""
    per_token, chance = data["experts_per_token"], data["chance"]
    sizes = f"{data['layers']} layers of {data['experts_per_layer']} experts, {per_token} for a token"
    visits = f"{data['accesses']:,} accesses to {data['unique_blocks']:,} experts"
    lines = (
        f"{data['tokens']:,} tokens of {data['requests']:,} requests in {data['passes']:,} passes",
        f"{sizes}; a guess at random gets {chance:.1%} right",
        f"{visits}; a perfect cache of {data['slots']:,} would find {data['ideal_hit_ratio']:.1%} of them",
    )
    columns = [name for name in _COLUMNS if not math.isnan(data["mean"][name])]
    table = plain_table("layer", *(_COLUMNS[name] for name in columns))
    for row in (*data["per_layer"], {"layer": "mean", **data["mean"]}):
        table.add_row(str(row["layer"]), *(_figure(name, row[name]) for name in columns))
    tables: list[Table | Text] = [Text("\n".join(lines)), table, Text(_LEGEND, style="dim")]
    return tables + ([_batching_table(data["batching"])] if "batching" in data else [])


def _batching_table(data: Mapping[str, Any]) -> Table:
    """What a step of a batch touches, by who runs side by side with whom."""
    table = plain_table(f"{data['batch']} requests side by side", "experts a step", "experts a token")
    for row in data["rows"]:
        table.add_row(row["grouping"], f"{row['experts_per_step']:.1f}", f"{row['experts_per_token']:.1f}")
    return table


def kv_trace_tables(data: Mapping[str, Any]) -> list[Table | Text]:
    """How many requests and blocks there are, and how many blocks a cache could have found."""
    cache = "any size" if data["slots"] is None else f"{data['slots']:,} blocks"
    blocks = f"{data['accesses']:,} accesses to {data['unique_blocks']:,} blocks of {data['block_tokens']:,} tokens"
    lines = (
        f"{data['requests']:,} requests in {data['duration_s']:,.0f} s, format {data['format']}",
        f"{data['input_tokens']:,} tokens of prompts, {data['output_tokens']:,} generated",
        f"{blocks}; a perfect cache of {cache} would find {data['ideal_hit_ratio']:.1%} of them",
    )
    return [Text("\n".join(lines))]


def _figure(name: str, value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.2f}" if name in ("max_to_mean", "entropy") else f"{value:.1%}"
