"""The search over scenarios of experts: policies, predictors and room for experts, in bytes or shares."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from offload.simulation.simulate import simulate_one
from offload.tuning.task import read_task
from tests.offload.simulation.test_expert_scenario import CONFIG
from tests.offload.test_cli import offload
from tests.offload.tuning.scenarios import FEW, write_hot
from tests.offload.tuning.test_tune import search
from tiers.errors import InvalidOptionError

EXPERT = 3 * 64 * 128 * 4
"""Bytes of an expert of the model."""

WIDE: dict[str, Any] = {
    "hardware": "rtx4090",
    "model": "small.json",
    "experts": {"requests": 2, "prompt_tokens": 6, "new_tokens": 10, "seed": 1},
    "tiers": {"device": {"min": "25%", "max": "100%", "step": "25%"}, "host": ["25%", "50%"]},
    "policies": ["lru", "expected_use"],
    "predictors": ["none", "next_gate"],
}


def write(folder: Path, **changes: Any) -> Path:
    (folder / "small.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    path = folder / "s.yaml"
    path.write_text(yaml.safe_dump({**WIDE, **changes}), encoding="utf-8")
    return path


def test_all_settings_and_the_best_as_a_scenario_and_a_run(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    best = tmp_path / "elsewhere" / "best.yaml"
    best.parent.mkdir()
    answer = search(write(tmp_path), objective="tokens_per_s", trials=32, out=best)
    assert (answer["combinations"], len(answer["trials"])) == (32, 32)
    assert answer["space"]["tiers.device"] == [8 * EXPERT, 16 * EXPERT, 24 * EXPERT, 32 * EXPERT]
    row = answer["best"]["row"]
    assert row["hit_ratio"] == 1.0
    assert row["tiers"] == {"device": 32 * EXPERT, "host": 8 * EXPERT}
    found = simulate_one(best, lambda *_: None)["rows"][0]
    assert {**found, "model": 0, "fingerprint": 0}.items() <= {**row, "model": 0, "fingerprint": 0}.items()
    assert answer["best"]["run"].keys() == {"device_memory", "host_memory", "policy", "predictor"}
    again = search(tmp_path / "s.yaml", objective="hit_ratio", trials=1)
    assert again["taken_over"] == 32
    assert {trial["row"]["fingerprint"] for trial in again["trials"]} == {
        trial["row"]["fingerprint"] for trial in answer["trials"]
    }


def test_the_least_room_with_enough_hits(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    path = write(tmp_path, limits={"hit_ratio": 0.9}, predictors="none", policies=["lru"])
    answer = search(path, objective="tiers.device", trials=8)
    assert answer["best"]["row"]["hit_ratio"] >= 0.9
    others = [trial["row"] for trial in answer["trials"] if trial["row"]["hit_ratio"] >= 0.9]
    assert answer["best"]["value"] == min(row["tiers"]["device"] for row in others)


def test_searches_of_the_other_kind_say_nothing(tmp_path: Path) -> None:
    """Studies in one directory: what a search over keys and values has learned is no start for one over experts."""
    pytest.importorskip("optuna")
    studies = tmp_path / "studies"
    studies.mkdir()
    search(write_hot(tmp_path, "kv.yaml", **FEW), trials=4, study=studies)
    path = write(tmp_path, predictors="none", policies=["lru", "arc", "lfu"])  # a choice of theirs could be one here
    answer = search(path, objective="tokens_per_s", trials=2, study=studies)
    assert (answer["taken_over"], answer["warm_started"]) == (0, 0)
    assert len(list(studies.iterdir())) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ["small.json", "mixtral-8x7b"]}, "tiers: a share is of the experts of one model, and here are"),
        ({"model": []}, "model: the list is empty"),
        ({"tiers": {"device": ["50%", "half"]}}, "tiers.device: 'half' is not a size"),
        ({"tiers": {"device": {"min": "50%", "max": "150%"}}}, "tiers.device.max: '150%' is no share of the experts"),
        ({"predictors": ["none", "next_gat"]}, "predictors: 'next_gat' is unknown; did you mean 'next_gate'"),
        ({"policies": ["lru", "lur"]}, "eviction policy 'lur' is unknown"),
        ({"limits": {"ttft_p99_s": 1}}, "limits: 'ttft_p99_s' is no figure of a row; did you mean 'ttft_s'"),
        ({"prices": {"nvme": 1}}, "prices: 'nvme' is none of the tiers"),
        ({"gate": ["load"]}, "unknown key 'gate'"),
    ],
)
def test_what_is_wrong(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOptionError) as error:
        read_task(write(tmp_path, **changes), "tokens_per_s")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_drives_are_not_searched(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match=r"is of drives that attend, which --sweep of 'offload simulate'"):
        read_task(Path("drives_opt13b"), "tokens_per_s")


@pytest.mark.slow
def test_on_ray(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    pytest.importorskip("ray")
    write(tmp_path)
    command = ("tune", "s.yaml", "--json", "--trials", "32", "--jobs", "1")
    alone = offload(*command, "--study", "alone.jsonl", cwd=tmp_path)
    assert (alone.returncode, alone.stderr) == (0, "")
    ran = offload(*command, "--study", "ray.jsonl", "--ray", "local", cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.replace("ray.jsonl", "alone.jsonl") == alone.stdout
