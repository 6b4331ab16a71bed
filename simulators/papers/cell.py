"""One cell of a published table beside what is predicted for it."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

TIE = 0.05
"""Published values that differ by less say nothing about an order."""


@dataclass(frozen=True, slots=True)
class Cell:
    """``ours`` is predicted from hardware, schedule and, at most, one number calibrated for the system.

    Cells of the same ``table`` and ``row`` are of systems that were compared.
    """

    table: str
    row: str
    system: str
    unit: str
    ours: float
    paper: float
    bar: float = 0.25
    """Most of the error, as a fraction."""
    rounding: float = 0.0
    """Half a unit of the last digit that was printed, where that is much of the value."""
    is_calibrated: bool = False
    """A constant was set by this very cell: it is no prediction."""
    is_variant: bool = False
    """The same cell as another one, from other numbers: it is there to explain, not to be counted."""
    note: str = ""

    @property
    def error(self) -> float:
        """Signed, as a fraction of what was published."""
        return self.ours / self.paper - 1.0

    @property
    def is_within(self) -> bool:
        """Whether the error is within the bar, or what was printed may have been rounded from this."""
        return abs(self.error) <= self.bar or abs(self.ours - self.paper) <= self.rounding


def rows_of(cells: Iterable[Cell]) -> list[list[Cell]]:
    """The cells of each row of each table; without variants."""
    found: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in cells:
        if not cell.is_variant:
            found.setdefault((cell.table, cell.row, cell.unit), []).append(cell)
    return list(found.values())


def is_in_order(row: Sequence[Cell]) -> bool:
    """Whether the systems of a row come in the order in which they were published."""
    return not out_of_order(row)


def out_of_order(row: Sequence[Cell]) -> list[tuple[Cell, Cell]]:
    """Pairs, the lower published first, of which ours are the other way round.

    Published ties have no order, and what is predicted to be equal is in none.
    """
    pairs = itertools.combinations(sorted(row, key=lambda cell: cell.paper), 2)
    return [(low, high) for low, high in pairs if high.paper > low.paper * (1 + TIE) and high.ours < low.ours]
