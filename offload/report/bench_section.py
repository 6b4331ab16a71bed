"""What a page says about ``offload bench``: every row against its peer and against its limit."""

from collections.abc import Sequence

from offload.report.facts import facts_of
from offload.report.figures import bars
from offload.report.parts import Figure, Plot, Section, Table, short
from offload.report.results import Result, Row

_RATIOS = (
    ("ratio_to_peer", "Against the peer", "What we reach over what the peer of the row reaches"),
    ("ratio_to_limit", "Against the limit", "What we reach over what physics allows"),
)
_FIRST = ("unit", "ours", "peer", "limit", "paper", "ratio_to_peer", "ratio_to_limit", "error")


def bench_section(result: Result) -> Section:
    """Of one file."""
    facts = facts_of(result, ("command", "seed", "hardware"))
    plots = [
        Plot(title, f"{reading}; the dashed line is 1, longer is better.", figure)
        for key, title, reading in _RATIOS
        if (figure := _ratio_bars(result.rows, key)) is not None
    ]
    errors = {name: row["error"] for name, row in _named(result.rows) if _is_number(row.get("error"))}
    if errors:
        figure = bars(list(errors), {"error": [100 * value for value in errors.values()]}, "%, signed")
        plots.append(Plot("Error", "How far we are from the paper or the measurement of the row; 0 is best.", figure))
    title = facts["command"] if "command" in result.data else result.path.name
    finding = _finding(result.rows)
    return Section(f"Benchmark: {title}", facts, plots, [_table(result.rows)], finding=finding)


def _finding(rows: Sequence[Row]) -> str:
    """How many rows keep up with their peers, and which one does so least."""
    ratios = [(row["ratio_to_peer"], name) for name, row in _named(rows) if _is_number(row.get("ratio_to_peer"))]
    if not ratios:
        return ""
    ahead = sum(ratio >= 1 for ratio, _ in ratios)
    least, name = min(ratios)
    some = f"{ahead} of {len(ratios)} rows with a peer are at or above it"
    return f"{some}; the lowest, {name}, reaches {short(least)} of it."


def _ratio_bars(rows: Sequence[Row], key: str) -> Figure | None:
    values = {name: row[key] for name, row in _named(rows) if _is_number(row.get(key))}
    return bars(list(values), {"ratio": list(values.values())}, "ratio", line_at=1) if values else None


def _table(rows: Sequence[Row]) -> Table:
    """The columns of the contract where any row has them, then whatever else rows have to say in one value."""
    others = dict.fromkeys(key for row in rows for key, value in row.items() if not isinstance(value, (dict, list)))
    columns = [key for key in (*_FIRST, *others) if any(row.get(key) is not None for row in rows)]
    columns = [key for key in dict.fromkeys(columns) if key != "name"]
    cells = [[row["name"], *(_cell(row.get(key)) for key in columns)] for row in rows]
    return Table("Rows", ("row", *(key.replace("_", " ") for key in columns)), cells)


def _cell(value: object) -> str:
    match value:
        case None:
            return "–"
        case bool() | str():
            return str(value)
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
        case _:
            return "–"


def _named(rows: Sequence[Row]) -> list[tuple[str, Row]]:
    """With a number where a name comes twice, since two bars of one name would be one."""
    names: list[str] = []
    for row in rows:
        name, times = row["name"], sum(other["name"] == row["name"] for other in rows[: len(names)])
        names.append(f"{name} ({times + 1})" if times else name)
    return list(zip(names, rows, strict=True))


def _is_number(value: object) -> bool:
    return type(value) in (int, float)
