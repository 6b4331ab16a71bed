"""Errors, bars and orders, by hand."""

from dataclasses import replace

import pytest

from simulators.papers.cell import Cell, is_in_order, out_of_order, rows_of

CELL = Cell("a table", "a row", "a system", "tokens/s", ours=8.0, paper=10.0)


def test_errors_are_signed_shares_of_what_was_published() -> None:
    assert CELL.error == pytest.approx(-0.2)
    assert CELL.is_within
    assert not replace(CELL, bar=0.15).is_within
    assert replace(CELL, ours=12.0).error == pytest.approx(0.2)


def test_a_value_of_one_digit_may_have_been_rounded() -> None:
    small = replace(CELL, ours=0.006, paper=0.01)
    assert not small.is_within
    assert replace(small, rounding=0.005).is_within
    assert not replace(small, ours=0.004, rounding=0.005).is_within


def test_rows_are_of_one_table_and_hold_no_variants() -> None:
    cells = [CELL, replace(CELL, system="b"), replace(CELL, row="other"), replace(CELL, is_variant=True)]
    assert [len(row) for row in rows_of(cells)] == [2, 1]


def test_an_order_is_that_of_values_that_differ() -> None:
    row = [replace(CELL, system=name, ours=ours, paper=paper) for name, ours, paper in _SYSTEMS]
    assert is_in_order(row)
    turned = [*row, replace(CELL, system="d", ours=0.5, paper=30.0)]
    assert {(low.system, high.system) for low, high in out_of_order(turned)} == {("a", "d"), ("b", "d"), ("c", "d")}


_SYSTEMS = [("a", 1.0, 10.0), ("b", 0.9, 10.2), ("c", 5.0, 20.0)]
