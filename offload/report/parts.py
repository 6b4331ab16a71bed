"""What a page is made of, before it is HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Key:
    """An entry of a legend: what is drawn in one colour, and which traces of the figure that are.

    ``colour`` is one of the style sheet's; ``sign`` the mark that the lines have. An empty one stands for a ramp, from
    nothing up to the colour. Without ``traces`` there is nothing to hide.
    """

    name: str
    colour: str
    sign: str = "■"
    traces: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """What Plotly draws, with colours by the names of the style sheet, and the legend that stands below it."""

    data: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    legend: Sequence[Key] = ()
    zooms: bool = False
    """Whether it is worth a closer look, also on a phone."""


@dataclass(frozen=True, slots=True)
class Plot:
    """``reading`` says in a sentence what is to be seen. One that is ``folded`` opens at a click on its title."""

    title: str
    reading: str
    figure: Figure
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Cells are texts; the first column names its row, the others are figures."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """All about one file. ``facts`` are what a reader needs to repeat it, ``finding`` is what comes out of it."""

    title: str
    facts: Mapping[str, str]
    plots: Sequence[Plot]
    tables: Sequence[Table]
    finding: str = field(default="", kw_only=True)


def number(value: float | None, digits: int = 2, unit: str = "") -> str:
    """As people write it; a dash where there is none or where it is infinite."""
    return "–" if value is None else f"{value:,.{digits}f}{unit}"


def arrow(name: str) -> str:
    """A link as people write it, in one line."""
    return name.replace("->", "\u00a0→\u00a0")


def alike(values: Sequence[float | None]) -> list[str]:
    """Numbers that stand side by side: with as many digits as the largest of them needs to have three."""
    known = [abs(value) for value in values if value is not None]
    largest = max(known, default=0.0)
    is_whole = all(value == int(value) for value in known)
    digits = 0 if is_whole or largest >= 100 else 1 if largest >= 10 else 2 if largest >= 1 else 3
    return [number(value, digits) for value in values]


def short(value: float | None) -> str:
    """Three digits that count, or all before the point."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def share(value: float | None) -> str:
    """In percent."""
    return "–" if value is None else f"{value:.1%}".replace("-0.0%", "0.0%")
