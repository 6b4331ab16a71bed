"""Published tables beside what the simulator predicts from the hardware of their papers, as rows of a benchmark."""

import itertools
from collections.abc import Callable, Iterable

from offload.bench.header import header
from simulators.papers.cell import Cell, is_in_order, out_of_order, rows_of
from simulators.papers.direct_storage import direct_storage_cells
from simulators.papers.drive_depth import drive_depth_cells
from simulators.papers.expertflow import expertflow_cells
from simulators.papers.flexgen_table import flexgen_cells
from simulators.papers.moe_infinity import moe_infinity_cells
from simulators.papers.read_me import read_me_cells

Row = dict[str, object]

TABLES: tuple[Callable[[], list[Cell]], ...] = (
    flexgen_cells,
    direct_storage_cells,
    drive_depth_cells,
    read_me_cells,
    expertflow_cells,
    moe_infinity_cells,
)


def published_cells() -> list[Cell]:
    """Every cell of every table. Takes a few seconds of one core; the same every time."""
    return [cell for make in TABLES for cell in make()]


def published_rows(cells: Iterable[Cell] | None = None) -> list[Row]:
    """A row for each cell: ``name``, ``unit``, ``ours``, ``paper``, ``error`` (signed, a fraction), ``note``.

    Besides them ``table``, ``row`` and ``system``, of which the name is made; ``published``, the digits that were
    printed, and ``nearest``, what is rounded to them and nearest to ours: the error is to that; ``bar`` and
    ``is_within`` it; ``is_calibrated`` for a cell by which a constant was set, and ``is_variant`` for one that only
    explains another: neither is a prediction; ``is_in_order``, whether all systems of this row come in the published
    order, and ``out_of_order_with``, the systems with which this one does not.
    """
    cells = published_cells() if cells is None else list(cells)
    ordered = {id(cell): is_in_order(row) for row in rows_of(cells) for cell in row}
    turned: dict[int, list[str]] = {id(cell): [] for cell in cells}
    for low, high in itertools.chain.from_iterable(map(out_of_order, rows_of(cells))):
        turned[id(low)].append(high.system)
        turned[id(high)].append(low.system)
    return [_row(cell, ordered.get(id(cell)), turned[id(cell)]) for cell in cells]


def published_summary(cells: Iterable[Cell] | None = None) -> Row:
    """How many predictions there are, how many are within their bar, and in how many rows the order is the same."""
    cells = published_cells() if cells is None else list(cells)
    predicted = [cell for cell in cells if not (cell.is_calibrated or cell.is_variant)]
    compared = [row for row in rows_of(cells) if len(row) > 1]
    return {
        "predicted_cells": len(predicted),
        "cells_within_bar": sum(cell.is_within for cell in predicted),
        "calibrated_cells": sum(cell.is_calibrated for cell in cells),
        "compared_rows": len(compared),
        "rows_in_order": sum(map(is_in_order, compared)),
    }


def bench_published() -> dict[str, object]:
    """The tables as a benchmark of their own, which runs nothing."""
    cells = published_cells()
    return header(seed=None) | published_summary(cells) | {"rows": published_rows(cells)}


def _row(cell: Cell, is_ordered: bool | None, others: list[str]) -> Row:
    return {
        "name": f"{cell.table}: {cell.row}, {cell.system}",
        "unit": cell.unit,
        "ours": cell.ours,
        "paper": cell.paper,
        "error": cell.error,
        "note": cell.note,
        "table": cell.table,
        "row": cell.row,
        "system": cell.system,
        "published": cell.published,
        "nearest": cell.nearest,
        "bar": cell.bar,
        "is_within": cell.is_within,
        "is_calibrated": cell.is_calibrated,
        "is_variant": cell.is_variant,
        "is_in_order": is_ordered,
        "out_of_order_with": others,
    }
