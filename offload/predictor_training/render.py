"""The scores of a trained predictor as tables. Takes what ``--json`` prints."""

from collections.abc import Mapping
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from offload.render import format_seconds, plain_table
from offload.sizes import format_size

_COLUMNS: Final = {"recall": "predicted", "popularity_recall": "most popular", "repetition_recall": "token before"}
"""Ways to guess, and their headings."""


def training_tables(data: Mapping[str, Any]) -> list[Table | Text]:
    """What was trained, then the share of visited experts that each way to guess names: a row a layer."""
    trained = f"{data['kind']}: {data['steps']:,} steps over {data['tokens']:,} tokens"
    size = f"{format_size(data['bytes'])}, {data['step_ms']:.2f} ms for a decode step"
    lines = (
        f"{trained} in {format_seconds(data['seconds'])}; {size}",
        f"on {data['held_out_tokens']:,} other tokens; a guess at random gets {data['chance']:.1%} right",
    )
    table = plain_table("layer", *_COLUMNS.values())
    for row in (*data["per_layer"], {**data, "layer": "mean"}):
        table.add_row(str(row["layer"]), *(f"{row[name]:.1%}" for name in _COLUMNS))
    return [Text("\n".join(lines)), table]
