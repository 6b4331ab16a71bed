"""What is about caches of experts: the routing is like the papers', and what is predicted of it."""

import pytest

from simulators.papers.cell import Cell, is_in_order, out_of_order, rows_of
from simulators.papers.direct_storage import direct_storage_cells
from simulators.papers.drive_depth import REQUEST_S, drive_depth_cells
from simulators.papers.expertflow import expertflow_cells
from simulators.papers.moe_infinity import moe_infinity_cells, slots
from simulators.papers.moe_models import DEEPSEEK, MIXTRAL, NLLB, SWITCH
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
        (DEEPSEEK.name, "DeepSpeed"),
    }
    assert all(abs(cell.error) < 0.01 for cell in cells.values() if cell.is_calibrated)
    missed = {name for name, cell in cells.items() if not cell.is_within}
    assert missed == {(NLLB.name, "MoE-Infinity")}
    assert all(cells[name].note for name in missed)
    turned = [pair for row in rows_of(cells.values()) for pair in out_of_order(row)]
    assert [(low.system, high.system) for low, high in turned] == [("vLLM", "DeepSpeed")]
    assert cells[MIXTRAL.name, "vLLM"].note


def test_deepspeed_moves_what_the_code_of_a_model_calls() -> None:
    """Two of eight experts of Mixtral, but all 128 of NLLB, of which a token needs two."""
    assert MIXTRAL.called_nbytes == MIXTRAL.active_nbytes == pytest.approx(25.7e9, rel=0.01)
    assert NLLB.called_nbytes == pytest.approx(6 * 128 * 134.2e6 + 6.93e9)
    assert NLLB.active_nbytes < 0.08 * NLLB.called_nbytes
    assert SWITCH.called_matrices == 12 * 128 * 2 + 24 * 6 + 12 * 2 + 12 + 1


def test_experts_that_fit_on_24_gib() -> None:
    assert slots(MIXTRAL) == int((22 * 2**30 - 3.2e9) / 352.3e6)
    assert slots(DEEPSEEK) < DEEPSEEK.moe_layers * DEEPSEEK.experts


def test_one_drive_is_as_fast_both_ways() -> None:
    cells: list[Cell] = direct_storage_cells()
    assert all(abs(cell.error) < 0.01 for cell in cells)


def test_two_drives_by_depth() -> None:
    """A latency for each and one cost of a thread are calibrated; deep queues of one thread are bound by the thread."""
    cells = {(cell.table.split()[0], cell.row): cell for cell in drive_depth_cells()}
    calibrated = [name for name, cell in cells.items() if cell.is_calibrated]
    assert [drive for drive, _ in calibrated] == ["Lexar", "Lexar", "WD_BLACK"]
    assert all(row.startswith("1 thread") for _, row in calibrated)
    assert all(abs(cells[name].error) < 0.01 for name in calibrated)
    assert all(cell.is_within for cell in cells.values())
    assert cells["WD_BLACK", "1 thread with 8 requests"].ours == pytest.approx(1 / REQUEST_S)
    assert cells["Lexar", "4 threads with 8 requests"].ours < 4 / REQUEST_S


def test_the_shape_is_what_makes_the_locality() -> None:
    wandering = generate_routing([(0, 200)], 1, 7, 1, shape=SHAPE)
    assert layer_statistics(wandering)[0].overlap > 0.6
