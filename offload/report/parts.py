"""What a page is made of, before it is HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Table:
    """Cells are texts; the first column names its row, the others are figures."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Plot:
    """``figure`` is what Plotly draws: its ``data`` and its ``layout``. ``reading`` says how to read it."""

    title: str
    reading: str
    figure: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Section:
    """All about one file. ``facts`` are what a reader needs to repeat it."""

    title: str
    facts: Mapping[str, str]
    plots: Sequence[Plot]
    tables: Sequence[Table]


def number(value: float | None, digits: int = 2, unit: str = "") -> str:
    """As people write it; a dash where there is none or where it is infinite."""
    return "–" if value is None else f"{value:,.{digits}f}{unit}"


def share(value: float | None) -> str:
    """In percent."""
    return "–" if value is None else f"{value:.1%}".replace("-0.0%", "0.0%")
