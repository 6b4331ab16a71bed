"""``offload tune`` as a real process."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from offload.budgets import budgets_here
from offload.config import load_config
from tests.offload.test_cli import ENVIRONMENT, complaint, offload
from tests.offload.tuning.scenarios import BLOCK, FEW, write_hot


def test_it_searches_writes_and_remembers(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    write_hot(tmp_path, **FEW)
    ran = offload("tune", "s.yaml", "--objective", "hit_ratio", "--json", "-o", "best.yaml", cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    answer = json.loads(ran.stdout)
    assert (answer["kind"], len(answer["trials"]), answer["resumed"]) == ("tune", 4, 0)
    assert answer["best"]["settings"] == {"tiers.host": "135MiB", "policy": "lfu"}
    assert answer["best"]["run"].keys() == {"device_memory", "host_memory", "batch"}
    assert {trial["row"]["policy"] for trial in answer["trials"]} == {"fifo", "lfu"}
    kept = list((tmp_path / ".cache" / "offload-runtime" / "tune").iterdir())
    assert [Path(answer["study"])] == kept
    shown = offload("tune", "s.yaml", "--objective", "hit_ratio", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "4 of 4 settings tried; 4 of earlier searches." in " ".join(shown.stdout.split())
    ran = offload("simulate", "best.yaml", "--json", cwd=tmp_path)
    assert json.loads(ran.stdout)["rows"][0]["hit_ratio"] == answer["best"]["value"]


def test_a_run_takes_the_best_settings(tmp_path: Path) -> None:
    """With a drive, which has its directory."""
    pytest.importorskip("optuna")
    tiers = {"device": 4 * BLOCK, "host": 6 * BLOCK, "nvme": 40 * BLOCK}
    write_hot(tmp_path, **FEW | {"tiers": tiers})
    ran = offload("tune", "s.yaml", "--objective", "hit_ratio", "--json", "-o", "best.yaml", cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert budgets_here(load_config(json.loads(ran.stdout)["best"]["run"])).nvme_bytes == tiers["nvme"]


def test_an_interrupt_says_the_best_so_far(tmp_path: Path) -> None:
    """Of very many settings: it is interrupted as soon as some are in the study."""
    pytest.importorskip("optuna")
    command = [sys.executable, "-m", "offload.cli", "tune", "s.yaml", "--objective", "hit_ratio", "--trials", "9999"]
    command += ["--json", "--study", "study.jsonl", "-o", "best.yaml", "--jobs", "1"]
    write_hot(tmp_path, tiers={"device": 4 * BLOCK, "host": {"min": 4 * BLOCK, "max": 9000 * BLOCK, "step": BLOCK}})
    study = tmp_path / "study.jsonl"
    with subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        while process.poll() is None and not (study.exists() and study.read_text().count('"state":1') >= 2):
            pass
        process.send_signal(signal.SIGINT)
        printed, complaints = process.communicate(timeout=60)
    assert (process.returncode, complaints) == (130, "offload: interrupted\n")
    answer = json.loads(printed)
    assert answer["ended"] == "interrupted"
    assert len(answer["trials"]) >= 2
    assert (tmp_path / "best.yaml").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trials", "0"], "--trials: '0' is not a count; write a whole number from 1 up"),
        (["--timeout", "-3"], "--timeout: '-3' is no number of seconds; write one above 0"),
        (["-o", "best.json"], "--out: best.json is written in YAML; name a .yaml file"),
        (["-o", "s.yaml"], "--out: s.yaml is the scenario with the ranges; name another file"),
        (["--study", "hot.jsonl"], "hot.jsonl: is no study of 'offload tune'; name another file"),
        (["--objective", "tokens"], "--objective: 'tokens' is no figure of a row; did you mean 'tokens_per_s'?"),
    ],
)
def test_what_is_wrong(tmp_path: Path, arguments: list[str], message: str) -> None:
    pytest.importorskip("optuna")
    write_hot(tmp_path, **FEW)
    before = sorted(path.name for path in tmp_path.iterdir())
    ran = offload("tune", "s.yaml", *arguments, cwd=tmp_path)
    assert ran.returncode == 2
    assert message in complaint(ran)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_without_optuna(tmp_path: Path) -> None:
    write_hot(tmp_path, **FEW)
    (tmp_path / "optuna.py").write_text("raise ImportError", encoding="utf-8")
    path = f"{tmp_path}:{Path(__file__).parents[3]}"
    ran = offload("tune", "s.yaml", cwd=tmp_path, PYTHONPATH=path)
    assert ran.returncode == 2
    assert complaint(ran).endswith("which is not installed; pip install 'offload-runtime[tune]'")
