"""What the simulator foretells, for people: a section for each published table, and its notes below it."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from offload.render import bench_tables, plain_table

Row = Mapping[str, Any]

_LEGEND = (
    "Errors are to the nearest value that would be printed as the published one. Missed: more than 25 % off, 15 % "
    "where a link or a drive bounds the system. Calibrated: a constant was set by this cell. Variants explain, and do "
    "not count. Order: the systems of this row do not come in the published one."
)


def simulator_tables(data: Mapping[str, Any]) -> list[Table | Text]:
    """The runs of this machine, if there are any, then the published tables."""
    rows = data["rows"]
    own = [row for row in rows if "table" not in row]
    conditions, *runs = bench_tables({**data, "rows": own})
    sections: list[Table | Text] = []
    published = [row for row in rows if "table" in row]
    for title in dict.fromkeys(row["table"] for row in published):
        sections += _section(title, [row for row in published if row["table"] == title])
    return [conditions, *(runs if own else []), *sections, Text(_LEGEND, style="dim")]


def _section(title: str, rows: Sequence[Row]) -> list[Table | Text]:
    """The systems of a row below its label; without them where there is only one."""
    table = plain_table(rows[0]["unit"], "published", "ours", "error", "")
    table.columns[-1].justify = "left"
    has_one_system = len({row["system"] for row in rows}) == 1
    notes: dict[str, int] = {}
    for label in dict.fromkeys(row["row"] for row in rows):
        if not has_one_system:
            table.add_row(escape(label))
        for row in (row for row in rows if row["row"] == label):
            name = label if has_one_system else f"  {row['system']}"
            numbers = (row["published"], _number(row["ours"]), _percent(row["error"]))
            table.add_row(escape(name), *numbers, escape(_remark(row, notes)))
    below = [Text(f"[{number}] {note}") for note, number in notes.items()]
    return [Text(title, style="bold"), table, *below, *([Text("")] if below else [])]


def _remark(row: Row, notes: dict[str, int]) -> str:
    """What has to be known of a cell in a word or two, and the number of its note, which is added to ``notes``."""
    words = []
    if row["is_variant"]:
        words.append("variant")
    elif row["is_calibrated"]:
        words.append("calibrated")
    elif not row["is_within"]:
        words.append("missed")
    if row["out_of_order_with"]:
        words.append("order")
    if row["note"]:
        words.append(f"[{notes.setdefault(row['note'], len(notes) + 1)}]")
    return " ".join(words)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _percent(value: float) -> str:
    """Without a sign where it would be a zero."""
    return f"{value:+.1%}" if abs(value) >= 0.0005 else "0.0%"
