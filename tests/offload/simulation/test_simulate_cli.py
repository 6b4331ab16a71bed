"""``offload simulate`` as a real process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.offload.test_cli import offload

SCENARIO = """
hardware: rtx4090
model: smollm2-135m
workload: {kind: chat, num_requests: 100, block_tokens: 64}
tiers: {device: 64MiB, host: 64MiB}
policies: [lru, "mine:Mine"]
"""
MINE = """
from tiers.eviction.lru import LRUPolicy

class Mine(LRUPolicy):
    pass
"""


def test_a_scenario_with_a_policy_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SCENARIO, encoding="utf-8")
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    ran = offload("simulate", "s.yaml", "--json", cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    lru, mine, _ = json.loads(ran.stdout)["rows"]
    assert mine == {**lru, "policy": "mine:Mine"}
    shown = offload("simulate", "s.yaml", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "mine:Mine" in shown.stdout
    assert "belady" in shown.stdout


def test_a_scenario_that_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SCENARIO.replace("tiers", "tires"), encoding="utf-8")
    ran = offload("simulate", "s.yaml", cwd=tmp_path)
    complaint = "offload: s.yaml: unknown key 'tires'; did you mean 'tiers'?\n"
    assert (ran.returncode, ran.stdout, ran.stderr) == (2, "", complaint)
    ran = offload("simulate", "mooncake_lur", cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    complaint = "offload: mooncake_lur: is no file, and no scenario that ships; did you mean 'mooncake_lru'?\n"
    assert ran.stderr == complaint


def test_a_policy_that_does_wrong_in_the_middle(tmp_path: Path) -> None:
    mine = MINE.replace("pass", "def touch(self, key):\n        assert key.sequence < 50, 'too far'")
    (tmp_path / "mine.py").write_text(mine, encoding="utf-8")
    (tmp_path / "s.yaml").write_text(SCENARIO, encoding="utf-8")
    (tmp_path / "sweep.yaml").write_text(SCENARIO.replace("rtx4090", "[rtx4090]"), encoding="utf-8")
    said = "'mine:Mine' is no eviction policy: touch raised AssertionError: too far in mine.py:6; --debug shows the"
    for arguments in (["s.yaml"], ["sweep.yaml", "--sweep"]):
        ran = offload("simulate", *arguments, cwd=tmp_path)
        assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1)
        assert said in ran.stderr


def test_even_popularity_is_warned_of_once(tmp_path: Path) -> None:
    even = SCENARIO.replace("kind: chat", "kind: zipf, skew: 0, document_blocks: 2").replace(', "mine:Mine"', "")
    (tmp_path / "s.yaml").write_text(even.replace("rtx4090", "[rtx4090, a100]"), encoding="utf-8")
    ran = offload("simulate", "s.yaml", "--sweep", "--json", cwd=tmp_path)
    assert ran.returncode == 0
    assert ran.stderr.startswith("offload: warning: all documents are equally popular: no policy can be told")
    assert ran.stderr.count("\n") == 1
    assert len(json.loads(ran.stdout)["rows"]) == 4


@pytest.mark.parametrize("command", [["simulate", "s.yaml"], ["trace", "info", "mooncake_conversation"]])
def test_nothing_heavy_is_imported(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "s.yaml").write_text(SCENARIO, encoding="utf-8")
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    code = (
        f"import sys; sys.argv = ['offload', *{command!r}]; from offload.cli import main; status = main(); "
        "heavy = {'torch', 'transformers', 'scipy', 'zarr', 'ray', 'optuna'}; "
        "print(status, sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    root = Path(__file__).parents[3]
    environment = {"PYTHONPATH": str(root)}
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.stderr == "0 []\n"
