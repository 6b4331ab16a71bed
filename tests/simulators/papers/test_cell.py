"""Errors, bars and orders, by hand."""

from dataclasses import replace

import pytest

from simulators.papers.cell import Cell, is_in_order, out_of_order, rows_of

CELL = Cell("a table", "a row", "a system", "tokens/s", ours=8.0, published="10.00")


def test_errors_are_signed_shares_of_what_is_printed_alike_and_nearest() -> None:
    assert CELL.paper == 10.0
    assert CELL.nearest == pytest.approx(9.995)
    assert CELL.error == pytest.approx(8 / 9.995 - 1)
    assert CELL.is_within
    assert not replace(CELL, bar=0.15).is_within
    assert replace(CELL, ours=12.0).error == pytest.approx(12 / 10.005 - 1)
    assert replace(CELL, ours=10.004).error == 0.0


@pytest.mark.parametrize(
    ("published", "rounding"), [("0.01", 0.005), ("0.60", 0.005), ("0.6", 0.05), ("20176", 0.5), ("20.2e3", 50.0)]
)
def test_digits_say_how_precise_a_value_is(published: str, rounding: float) -> None:
    assert replace(CELL, published=published).rounding == pytest.approx(rounding)


def test_a_value_of_one_digit_may_have_been_rounded() -> None:
    small = replace(CELL, ours=0.006, published="0.01")
    assert small.error == 0.0
    assert replace(small, ours=0.004).error == pytest.approx(-0.2)
    assert replace(small, ours=0.018).error == pytest.approx(0.2)
    assert not replace(small, ours=0.003).is_within
    assert not replace(small, published="0.010").is_within


def test_rows_are_of_one_table_and_hold_no_variants() -> None:
    cells = [CELL, replace(CELL, system="b"), replace(CELL, row="other"), replace(CELL, is_variant=True)]
    assert [len(row) for row in rows_of(cells)] == [2, 1]


def test_an_order_is_that_of_values_that_differ() -> None:
    row = [replace(CELL, system=name, ours=ours, published=published) for name, ours, published in _SYSTEMS]
    assert is_in_order(row)
    turned = [*row, replace(CELL, system="d", ours=0.5, published="30.0")]
    assert {(low.system, high.system) for low, high in out_of_order(turned)} == {("a", "d"), ("b", "d"), ("c", "d")}


_SYSTEMS = [("a", 1.0, "10.0"), ("b", 0.9, "10.2"), ("c", 5.0, "20.0")]
