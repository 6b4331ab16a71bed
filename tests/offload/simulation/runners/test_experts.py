"""Scenarios of experts where several processes or machines run them: the same rows as in one process."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from offload.simulation.expert_case import ExpertCase
from offload.simulation.runners import on_ray
from offload.simulation.runners.base import Refused
from offload.simulation.sweep import read_sweep
from prefetch.path_file import PathFile
from simulators.expert_trace import ExpertTrace
from tests.offload.simulation.test_expert_scenario import CONFIG, MINE, SCENARIO
from tests.offload.test_cli import offload


def write(folder: Path, text: str) -> Path:
    (folder / "small.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    (folder / "mine.py").write_text(MINE, encoding="utf-8")
    path = folder / "s.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def save_trained(path: Path, model: str) -> None:
    """A predictor that knows no token and expects of every layer what its offsets say."""
    random = np.random.default_rng(0)
    arrays = {
        "embedding": random.standard_normal((3, 4)).astype(np.float32),
        "norm": np.ones(4, np.float32),
        "heads": random.standard_normal((4, 32)).astype(np.float32),
        "offsets": random.standard_normal(32).astype(np.float32),
    }
    layers, ids = np.arange(4, dtype=np.int32), np.arange(2, dtype=np.int32)
    PathFile("routing-path", model, 8, 2, layers, ids, 1, 4, arrays).save(path)


def test_what_a_worker_does(tmp_path: Path) -> None:
    """It gets a setting without routing, which is sent once, and what a trained predictor's file holds."""
    trained = tmp_path / "trained.npz"
    save_trained(trained, "generated, seed 1")
    path = write(tmp_path, SCENARIO.replace("popularity", "trained.npz").replace("50%", "[25%, 50%]"))
    sweep = read_sweep(path)
    routing = sweep.maker.workload(sweep.cells[0].settings)
    assert isinstance(routing, ExpertTrace)
    assert sweep.maker.workload(sweep.cells[-1].settings) is routing
    run = sweep.maker.setting(sweep.cells[0].settings).experiment(routing)
    rows = [run(cell.head) for cell in sweep.cells[:8]]
    assert [cell.head["policy"] for cell in sweep.cells[:2]] == ["lru", "lru + trained.npz"]
    assert rows[1]["prefetched_ratio"] > 0
    setting = on_ray.sent_setting(sweep.cells[0], sweep.maker)
    assert isinstance(setting.setting, ExpertCase)
    assert setting.setting.setting.trace.tokens.size == setting.setting.setting.trace.gates.size == 0
    sent: on_ray.SentSetting = pickle.loads(pickle.dumps(setting))  # as Ray does
    trained.unlink()
    assert [on_ray.run_cell(sent, routing, cell.head) for cell in sweep.cells[:8]] == rows
    small = {**sweep.cells[0].settings, "tiers": {"device": "1KiB"}}
    tight = on_ray.SentSetting(json.dumps(small), sweep.maker.setting({**small, "predictors": ["none"]}))
    refused = on_ray.run_cell(tight, routing, sweep.cells[0].head)
    assert isinstance(refused, Refused)
    assert "one layer of a step needs 2 experts" in refused.message


@pytest.mark.slow
def test_rows_are_those_of_this_machine_alone(tmp_path: Path) -> None:
    """A policy and a predictor of one's own go along."""
    pytest.importorskip("ray")
    own = SCENARIO.replace("[lru, expected_use]", '[lru, "mine:Mine"]').replace("next_gate", '"mine:First"')
    write(tmp_path, own.replace("50%", "[25%, 50%]"))
    command = ("simulate", "s.yaml", "--sweep", "--json")
    path = {"PYTHONPATH": f".:{Path(__file__).parents[4]}"}
    alone = offload(*command, cwd=tmp_path, **path)
    assert (alone.returncode, alone.stderr) == (0, "")
    ran = offload(*command, "--ray", "local", cwd=tmp_path, **path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == alone.stdout
