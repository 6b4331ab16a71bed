"""Whole models against the sum of their parts: products come out as slow as a model shows them to be, no faster."""

import pytest

from offload.speed.whole import Round, slower, with_slower
from simulators.runtime_profile import RuntimeProfile

LAYERS = (2, 20)


def rounds(wide_s: float) -> list[list[Round]]:
    """A pass takes 2 ms and a layer 1 ms besides products; the wide one of 5 layers ``wide_s``. One round of three is
    taken when something else has slowed the machine to a half, which does not matter."""
    usual = [Round(0.002 + 0.002 + 0.01, 0.01, 0.5), Round(0.002 + 0.02 + 0.01, 0.01, 0.5), Round(wide_s, 0.02, 0.5)]
    return [[Round(times * m.step_s, times * m.products_s, 0.5) for m in usual] for times in (1.0, 2.0, 1.0)]


def test_what_a_model_takes_more_is_its_modules_products() -> None:
    """Half of 20 ms are those of modules."""
    assert slower(rounds(0.002 + 0.005 + 0.02), LAYERS, 2, 5) == pytest.approx(1)
    assert slower(rounds(0.002 + 0.005 + 0.023), LAYERS, 2, 5) == pytest.approx(1.3)


def test_what_cannot_be_is_not_believed() -> None:
    assert slower(rounds(0.01), LAYERS, 2, 5) == 1
    assert slower(rounds(1.0), LAYERS, 2, 5) == 1.5


def test_the_head_of_a_half_precision_model_keeps_its_speed() -> None:
    """It has a kernel of its own there."""
    tables = dict.fromkeys(("float32", "bfloat16"), ((65536, 1000000000.0), (2**20, 2000000000.0)))
    found = RuntimeProfile(products=tables, vector_products=tables)
    scaled = dict.fromkeys(tables, ((65536, 500000000.0), (2**20, 1000000000.0)))
    half = with_slower(found, "bfloat16", 2)
    assert half.products == {**tables, "bfloat16": scaled["bfloat16"]}
    assert half.vector_products == tables
    single = with_slower(found, "float32", 2)
    assert single.products == single.vector_products == {**tables, "float32": scaled["float32"]}
