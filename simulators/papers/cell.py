"""One cell of a published table beside what is predicted for it."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

TIE = 0.05
"""Published values that differ by less say nothing about an order."""


@dataclass(frozen=True, slots=True)
class Cell:
    """``ours`` is predicted from hardware, schedule and, at most, one number calibrated for the system.

    ``published`` are the digits as they were printed ("0.10" is more than "0.1"): what was measured is anything that is
    rounded to them. Cells of the same ``table`` and ``row`` are of systems that were compared.
    """

    table: str
    row: str
    system: str
    unit: str
    ours: float
    published: str
    bar: float = 0.25
    """Most of the error, as a fraction."""
    is_calibrated: bool = False
    """A constant was set by this very cell: it is no prediction."""
    is_variant: bool = False
    """The same cell as another one, from other numbers: it is there to explain, not to be counted."""
    note: str = ""

    @property
    def paper(self) -> float:
        """The published value as it stands."""
        return float(Decimal(self.published))

    @property
    def rounding(self) -> float:
        """Half a unit of the last digit that was printed."""
        exponent = Decimal(self.published).as_tuple().exponent
        assert isinstance(exponent, int), "a published value is a number"
        return float(Decimal(5).scaleb(exponent - 1))

    @property
    def nearest(self) -> float:
        """Of the values that are rounded to the published one, the nearest to ours."""
        return min(max(self.ours, self.paper - self.rounding), self.paper + self.rounding)

    @property
    def error(self) -> float:
        """Signed, as a fraction of ``nearest``: 0 where what was printed may have been rounded from ours."""
        return self.ours / self.nearest - 1.0

    @property
    def is_within(self) -> bool:
        """Whether the error is within the bar."""
        return abs(self.error) <= self.bar


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
