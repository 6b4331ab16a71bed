"""``offload trace`` as a real process."""

import json
from pathlib import Path

import numpy as np
from rich.table import Table

from offload.predictor_training.render import training_tables
from prefetch.routing_path import RoutingPath
from simulators.expert_trace import ExpertTrace
from tests.offload.test_cli import offload as run_command
from tests.offload.zoo import save_model

CONTRACT = {"requests", "accesses", "unique_blocks", "ideal_hit_ratio"}


def test_a_trace_is_recorded_explained_and_learnt(tmp_path: Path) -> None:
    """The same figures when it is recorded, when it is read again and for people; nothing else on any stream."""
    save_model(tmp_path / "model", "mixtral", num_local_experts=6, num_experts_per_tok=2)
    (tmp_path / "ids").write_text(" ".join(str(3 + i % 190) for i in range(60)), encoding="utf-8")
    sizes = ["--requests", "3", "--prompt-tokens", "16", "--max-new-tokens", "4", "--forced", "--gate-inputs"]
    sizes += ["--policy", "lru", "--predictor", "none", "--experts", "stored"]
    ran = run_command("trace", "record", "model", "--prompt-file", "ids", "-o", "t.npz", *sizes, "--json", cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    recorded = json.loads(ran.stdout)
    assert recorded.keys() >= CONTRACT
    assert (recorded["requests"], recorded["tokens"]) == (3, 60)
    assert recorded["bytes"] == (tmp_path / "t.npz").stat().st_size
    assert len(ExpertTrace.load(tmp_path / "t.npz").tokens) == 60
    told = json.loads(run_command("trace", "info", "t.npz", "--json", cwd=tmp_path).stdout)
    assert told == {key: value for key, value in recorded.items() if key not in ("out", "bytes")} | {"file": "t.npz"}
    assert told["per_layer"][0]["next_gate_recall"] is None
    shown = run_command("trace", "info", "t.npz", "--slots", "24", cwd=tmp_path)
    assert f"{told['accesses']} accesses to {told['unique_blocks']} experts; a perfect cache of 24" in shown.stdout
    assert "repeated" in shown.stdout
    trained = ["train-predictor", "t.npz", "--model", "model", "--test", "t.npz", "--steps", "3", "-o", "p.npz"]
    ran = run_command(*trained, "--json", cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    scores = json.loads(ran.stdout)
    assert scores.keys() >= {"recall", "chance", "popularity_recall", "repetition_recall", "step_ms", "per_layer"}
    assert scores["bytes"] == (tmp_path / "p.npz").stat().st_size
    predictor = RoutingPath.load(tmp_path / "p.npz", told["model"])
    assert predictor.begin(np.array([[3, 4]]), 0).shape == (2, 4, 6)
    shown = run_command("trace", "info", "t.npz", "--batch", "2", "--predictor", "p.npz", cwd=tmp_path)
    assert "2 requests side by side" in shown.stdout
    assert "by predicted paths" in shown.stdout
    table, _ = training_tables(scores)[::-1]
    assert isinstance(table, Table)
    assert table.row_count == 4 + 1
