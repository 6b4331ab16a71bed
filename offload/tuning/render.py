"""The answer of ``offload tune`` for people. Takes what ``--json`` prints."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from offload.render import plain_table
from offload.sizes import format_size

_SHOWN = 5


def tune_tables(data: Mapping[str, Any]) -> list[Table | Text]:
    """The best few settings, the best first, and what was learned from where."""
    objective, axes = data["objective"], [name for name, values in data["space"].items() if len(values) > 1]
    rows = sorted(data["rows"], key=lambda row: (not row["within_limits"], _cost(row, data), row["trial"]))
    rows.sort(key=lambda row: row["trial"] != data["best"]["trial"])  # of equal ones that with less memory
    others = [name for name in data["limits"] if name != objective and not name.startswith("tiers.")]
    table = plain_table("best", *axes, objective, *others)
    for place, row in enumerate((row for row in rows[:_SHOWN] if row["within_limits"]), 1):
        chosen = [format_size(row["tiers"][name[6:]]) if name.startswith("tiers.") else str(row[name]) for name in axes]
        figures = [f"{row['value']:,.4g}", *(_figure(name, row[name]) for name in others)]
        table.add_row(str(place), *chosen, *figures)
    facts = {
        "of earlier searches": data["resumed"],
        "of other searches": data["taken_over"],
        "first because they did well elsewhere": data["warm_started"],
    }
    counted = "".join(f"; {number} {what}" for what, number in facts.items() if number)
    said = f"{data['tried']} of {data['combinations']:,} settings tried{counted}. Kept in {data['study']}"
    return [table, Text(said, style="dim")]


def _figure(name: str, value: float) -> str:
    return format_size(int(value)) if name == "memory_bytes" else f"{value:,.4g}"


def _cost(row: Mapping[str, Any], data: Mapping[str, Any]) -> float:
    value: float = row["value"]
    return -value if data["direction"] == "maximize" else value
