"""Published tables as rows of a benchmark."""

import json
import subprocess
import sys
from pathlib import Path

from offload.bench.published import TABLES, published_cells, published_rows, published_summary

CELLS = published_cells()
ROWS = published_rows(CELLS)


def test_rows_have_the_keys_of_a_benchmark() -> None:
    assert len(ROWS) == len(CELLS)
    assert len({row["name"] for row in ROWS}) == len(ROWS)
    for row, cell in zip(ROWS, CELLS, strict=True):
        assert {"name", "unit", "ours", "paper", "error", "note"} <= row.keys()
        assert row["ours"] == cell.ours
        assert row["error"] == cell.error == cell.ours / cell.nearest - 1
        assert float(cell.published) == row["paper"]
        assert row["is_calibrated"] == cell.is_calibrated
        assert bool(row["out_of_order_with"]) <= (row["is_in_order"] is False)
        assert (row["is_in_order"] is None) == cell.is_variant
    assert json.loads(json.dumps(ROWS)) == ROWS


def test_what_misses_its_bar_says_why() -> None:
    assert all(row["note"] for row in ROWS if not row["is_within"])


def test_the_summary_counts_predictions_only() -> None:
    summary = published_summary(CELLS)
    assert summary["predicted_cells"] == sum(not (cell.is_calibrated or cell.is_variant) for cell in CELLS)
    assert summary["calibrated_cells"] == sum(cell.is_calibrated for cell in CELLS) == 9
    assert len({cell.table for cell in CELLS}) >= len(TABLES)
    within, predicted = summary["cells_within_bar"], summary["predicted_cells"]
    assert isinstance(within, int)
    assert isinstance(predicted, int)
    assert (within, predicted) == (60, 65)
    assert (summary["rows_in_order"], summary["compared_rows"]) == (20, 22)


def test_what_comes_out_of_order_says_why() -> None:
    turned = [row for row in ROWS if row["out_of_order_with"]]
    assert {row["row"] for row in turned} == {"OPT-6.7B, prompts of 256 tokens", "Mixtral-8x7B"}
    assert all(any(row["note"] for row in turned if row["row"] == label) for label in {row["row"] for row in turned})


def test_the_command_prints_them_and_runs_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "offload.cli", "bench", "simulator", "--published", "--model", "nowhere", "--json"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    answer = json.loads(ran.stdout)
    assert answer["rows"] == ROWS
    assert published_summary(CELLS).items() <= answer.items()
    assert not list(tmp_path.iterdir())
