"""What is about caches of experts: the routing is like the papers', and what is predicted of it."""

import pytest

from simulators.papers.cell import Cell, is_in_order, rows_of
from simulators.papers.direct_storage import direct_storage_cells
from simulators.papers.drive_depth import drive_depth_cells
from simulators.papers.expertflow import expertflow_cells
from simulators.papers.moe_infinity import DEEPSEEK, MIXTRAL, moe_infinity_cells, slots
from simulators.papers.read_me import KEPT, SHAPE, read_me_cells, read_me_trace
from simulators.routing_generator import generate_routing
from simulators.trace_statistics import layer_statistics


def test_read_mes_tokens_keep_their_expert_as_often_as_published() -> None:
    (layer,) = layer_statistics(read_me_trace())
    assert layer.overlap == pytest.approx(KEPT, abs=0.03)
    assert layer.entropy > 0.98


def test_read_me_without_a_calibrated_number() -> None:
    cells = read_me_cells()
    assert len(cells) == 12
    assert not any(cell.is_calibrated for cell in cells)
    assert all(cell.is_within for cell in cells)
    assert all(abs(cell.error) < 0.05 for cell in cells if cell.system == "Belady")
    assert all(map(is_in_order, rows_of(cells)))
    assert read_me_cells() == cells


def test_expertflow() -> None:
    cells = expertflow_cells()
    assert [cell.is_calibrated for cell in cells] == [True, False, False, False, False, False]
    assert abs(cells[0].error) < 0.02
    assert all(cell.is_within for cell in cells)
    assert all(map(is_in_order, rows_of(cells)))


def test_moe_infinity() -> None:
    cells = {(cell.row, cell.system): cell for cell in moe_infinity_cells()}
    assert {name for name, cell in cells.items() if cell.is_calibrated} == {
        (DEEPSEEK.name, "MoE-Infinity"),
        (DEEPSEEK.name, "vLLM"),
    }
    assert all(abs(cell.error) < 0.01 for cell in cells.values() if cell.is_calibrated)
    missed = {name for name, cell in cells.items() if not cell.is_within}
    assert missed == {
        (DEEPSEEK.name, "DeepSpeed"),
        (MIXTRAL.name, "DeepSpeed"),
        (MIXTRAL.name, "mixtral-offloading"),
        ("NLLB-MoE-54B", "MoE-Infinity"),
    }
    assert all(cells[name].note for name in missed)
    assert all(map(is_in_order, rows_of(cells.values())))


def test_experts_that_fit_on_24_gib() -> None:
    assert slots(MIXTRAL) == int((22 * 2**30 - 3.2e9) / 352.3e6)
    assert slots(DEEPSEEK) < DEEPSEEK.moe_layers * DEEPSEEK.experts


def test_one_drive_is_as_fast_both_ways() -> None:
    cells: list[Cell] = direct_storage_cells()
    assert all(abs(cell.error) < 0.01 for cell in cells)


def test_a_drive_by_depth() -> None:
    cells = drive_depth_cells()
    assert abs(cells[0].error) < 0.01
    assert [cell.is_within for cell in cells] == [True, True, True, False]
    assert cells[-1].note


def test_the_shape_is_what_makes_the_locality() -> None:
    wandering = generate_routing([(0, 200)], 1, 7, 1, shape=SHAPE)
    assert layer_statistics(wandering)[0].overlap > 0.6
