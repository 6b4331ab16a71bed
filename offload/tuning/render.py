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
    trials = sorted((trial for trial in data["trials"] if trial["within_limits"]), key=lambda trial: _cost(trial, data))
    trials.sort(key=lambda trial: trial["trial"] != data["best"]["trial"])  # of equal ones that with less memory
    others = [name for name in data["limits"] if name != objective and not name.startswith("tiers.")]
    table = plain_table("best", *axes, objective, *others)
    for place, trial in enumerate(trials[:_SHOWN], 1):
        figures = [f"{trial['value']:,.4g}", *(_figure(name, trial["row"][name]) for name in others)]
        table.add_row(str(place), *(str(trial["settings"][name]) for name in axes), *figures)
    facts = {
        "of earlier searches": data["resumed"],
        "of other searches": data["taken_over"],
        "first because they did well elsewhere": data["warm_started"],
    }
    counted = "".join(f"; {number} {what}" for what, number in facts.items() if number)
    said = f"{len(data['trials'])} of {data['combinations']:,} settings tried{counted}. Kept in {data['study']}"
    return [table, Text(said, style="dim")]


def _figure(name: str, value: float) -> str:
    return format_size(int(value)) if name == "memory_bytes" else f"{value:,.4g}"


def _cost(trial: Mapping[str, Any], data: Mapping[str, Any]) -> float:
    value: float = trial["value"]
    return -value if data["direction"] == "maximize" else value
