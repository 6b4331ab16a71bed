"""Whole models against the sum of their parts: products come out as slow as a model shows them to be, no faster."""

from dataclasses import replace
from pathlib import Path

import pytest

from offload.speed.whole import WholeSizes, measure_whole
from simulators.profile import DEFAULT
from simulators.runtime_profile import RuntimeProfile, Table

SIZES = WholeSizes(layers=2, hidden=(128, 128), vocabulary=256, prompt=4, steps=2, repeats=1)
DTYPES = ("float32", "bfloat16")


def measured(rate: float, step_s: float, directory: Path) -> RuntimeProfile:
    """Of a machine whose products are of this rate, and whose passes take ``step_s`` besides them."""
    table: Table = ((65536, rate), (2**20, 2 * rate))
    tables = dict.fromkeys(DTYPES, table)
    runtime = RuntimeProfile(products=tables, vector_products=tables, step_s=step_s)
    return measure_whole(replace(DEFAULT, runtime=runtime), directory, SIZES)


def test_a_model_that_is_no_slower_leaves_products_as_they_are(tmp_path: Path) -> None:
    found = measured(1e9, 3600.0, tmp_path)
    assert found.products["float32"] == found.vector_products["bfloat16"] == ((65536, 1e9), (2**20, 2e9))


def test_one_that_is_slower_counts_up_to_twice(tmp_path: Path) -> None:
    """No machine multiplies at a petabyte a second. The head of bfloat16 has a kernel of its own, which stays."""
    found = measured(1e15, 0.0, tmp_path)
    for table in (found.products["float32"], found.products["bfloat16"], found.vector_products["float32"]):
        assert [rate for _, rate in table] == pytest.approx([5e14, 1e15])
    assert found.vector_products["bfloat16"] == ((65536, 1e15), (2**20, 2e15))


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    measured(1e9, 0.0, tmp_path / "new")
    assert not (tmp_path / "new").exists()
