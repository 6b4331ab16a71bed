"""Published tables as rows of a benchmark."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from offload.bench.published import TABLES, published_cells, published_rows, published_summary
from offload.bench.published_table import simulator_tables

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


def test_a_section_for_each_table_with_its_notes_below() -> None:
    """Nothing wraps on 80 columns but notes."""
    lines = _printed({"rows": ROWS} | published_summary(CELLS))
    titles = list(dict.fromkeys(cell.table for cell in CELLS))
    assert [line for line in lines if line in titles] == titles
    assert sum(" variant [" in line for line in lines) == sum(cell.is_variant for cell in CELLS)
    predicted = [cell for cell in CELLS if not (cell.is_calibrated or cell.is_variant)]
    assert sum(" missed" in line for line in lines) == sum(not cell.is_within for cell in predicted)
    systems = sum(line.startswith("   ") and line.count("%") == 1 for line in lines)
    alone = [cell for cell in CELLS if cell.system == "drive"]
    assert systems == len(CELLS) - len(alone)
    assert sum(line.startswith("[1] ") for line in lines) == sum(
        any(cell.note for cell in CELLS if cell.table == title) for title in titles
    )


def test_runs_of_this_machine_come_first() -> None:
    own = {"name": "a setup", "unit": "tokens/s", "ours": 2.0, "measured": 1.9, "error": 0.05, "note": "a note of it"}
    lines = _printed({"rows": [own, *ROWS]})
    assert "a setup: a note of it" in lines
    assert next(i for i, line in enumerate(lines) if "a setup" in line) < lines.index(CELLS[0].table)


def test_the_command_prints_them_and_runs_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "offload.cli", "bench", "simulator", "--published", "--model", "nowhere", "--json"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    answer = json.loads(ran.stdout)
    assert answer["rows"] == ROWS
    assert published_summary(CELLS).items() <= answer.items()
    assert not list(tmp_path.iterdir())


def _printed(data: dict[str, Any]) -> list[str]:
    """Lines of 80 columns, without what is blank at their ends."""
    out = io.StringIO()
    console = Console(file=out, width=80)
    for part in simulator_tables(data):
        console.print(part)
    return [line.rstrip() for line in out.getvalue().splitlines()]
