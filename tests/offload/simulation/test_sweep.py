"""``offload simulate --sweep``: every combination once, the same on one core or two, and not again what is there."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from offload.simulation.axes import axes_of, combinations
from offload.simulation.cell import cell_key
from offload.simulation.scenario_file import load_scenario
from offload.simulation.simulate import simulate_one, simulate_sweep
from offload.simulation.sweep import read_sweep
from tests.offload.test_cli import ENVIRONMENT, complaint, offload
from tiers.errors import InvalidOptionError

GOOD: dict[str, Any] = {
    "hardware": ["a100", "t4"],
    "model": "smollm2-135m",
    "workload": {"kind": "zipf", "num_requests": 40, "num_documents": 20, "document_blocks": 4, "seed": 3},
    "tiers": {"device": "400MiB", "host": ["200MiB", "400MiB"]},
    "policies": ["lru", "arc"],
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "s.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **changes}), encoding="utf-8")
    return path


def ignore(done: int, total: int) -> None:
    """Progress."""


def test_every_combination_in_order(tmp_path: Path) -> None:
    path = write(tmp_path, batch=[1, 2, 1])
    axes = axes_of({**GOOD, "batch": [1, 2, 1]}, path)
    assert axes == {"hardware": ["a100", "t4"], "batch": [1, 2], "tiers.host": ["200MiB", "400MiB"]}
    settings = list(combinations({**GOOD, "batch": 9}, axes))
    assert len(settings) == 8
    assert settings[1] == {**GOOD, "hardware": "a100", "batch": 1, "tiers": {"device": "400MiB", "host": "400MiB"}}
    sweep = read_sweep(path)
    assert len(sweep.cells) == 8 * 3
    assert len({cell.fingerprint for cell in sweep.cells}) == len({cell.key for cell in sweep.cells}) == 24


def test_cells_are_what_single_runs_give(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    answer = simulate_sweep(write(tmp_path), out, ignore)
    assert json.loads(out.read_text(encoding="utf-8")) == json.loads(json.dumps(answer))
    assert (answer["cells"], len(answer["rows"]), answer["seed"]) == (12, 12, 3)
    single = simulate_one(write(tmp_path, hardware="t4", tiers={"device": "400MiB", "host": "200MiB"}), ignore)
    part = [row for row in answer["rows"] if (row["hardware"], row["tiers"]["host"]) == ("t4", 200 * 2**20)]
    assert [row["policy"] for row in part] == ["lru", "arc", "belady"]
    for row, alone in zip(part, single["rows"], strict=True):
        assert "timeline" in alone  # for which a sweep of many rows has no room
        assert row == {**row, **{key: value for key, value in alone.items() if key not in ("timeline", "gap")}}


def test_what_is_there_is_not_run_again(tmp_path: Path) -> None:
    """A row that was altered by hand stays as it is; one that is missing, or of another policy's code, is made."""
    out = tmp_path / "out.json"
    (tmp_path / "mine.py").write_text("from tiers.eviction.lru import LRUPolicy\nclass Mine(LRUPolicy): pass\n")
    write(tmp_path, hardware="t4", policies=["lru", "mine:Mine"])
    command = ("simulate", "s.yaml", "--sweep", "--out", "out.json", "--json")
    first = offload(*command, cwd=tmp_path)
    assert (first.returncode, first.stderr) == (0, "")
    assert out.read_text(encoding="utf-8") == first.stdout
    data = json.loads(first.stdout)
    assert len(data["rows"]) == 6
    for row in data["rows"]:
        row["elapsed_s"] = -1.0
    del data["rows"][0]
    out.write_text(json.dumps(data), encoding="utf-8")
    with (tmp_path / "mine.py").open("a") as file:
        file.write("# changed\n")
    again = offload(*command, cwd=tmp_path)
    rows = json.loads(again.stdout)["rows"]
    made = [row["policy"] for row in rows if row["elapsed_s"] != -1.0]
    assert made == ["lru", "mine:Mine", "mine:Mine"]
    out.unlink()
    (tmp_path / "mine.py").write_text("from tiers.eviction.lru import LRUPolicy\nclass Mine(LRUPolicy): pass\n")
    assert offload(*command, cwd=tmp_path).stdout == first.stdout


def test_a_helper_of_a_policy_is_part_of_it(tmp_path: Path) -> None:
    """Also one that a helper imports inside a function; what lies there and is not imported is not."""
    (tmp_path / "deep.py").write_text("ROOM = 1\n")
    (tmp_path / "helper.py").write_text("import helper\ndef room():\n    from deep import ROOM\n    return ROOM\n")
    (tmp_path / "unused.py").write_text("")
    mine = "from helper import room\nfrom tiers.eviction.lru import LRUPolicy\nclass Mine(LRUPolicy): room = room()\n"
    (tmp_path / "mine.py").write_text(mine)
    write(tmp_path, hardware="t4", policies=["mine:Mine"], tiers={"device": "400MiB", "host": ["200MiB"]})
    command = ("simulate", "s.yaml", "--sweep", "--out", "out.json", "--json")
    path = {"PYTHONPATH": f".:{Path(__file__).parents[3]}"}

    def fingerprints() -> list[str]:
        ran = offload(*command, cwd=tmp_path, **path)
        assert (ran.returncode, ran.stderr) == (0, "")
        return [row["fingerprint"] for row in json.loads(ran.stdout)["rows"]]

    first = fingerprints()
    (tmp_path / "unused.py").write_text("# changed\n")
    assert fingerprints() == first
    (tmp_path / "deep.py").write_text("ROOM = 2\n")
    mine_now, bound = fingerprints()
    assert mine_now != first[0]
    assert bound == first[1]


def test_paths_through_the_host_are_swept_too(tmp_path: Path) -> None:
    change = {
        "hardware": "t4",
        "policies": ["lru"],
        "storage": ["gds", "bounce"],
        "host_memory": ["pinned", "pageable"],
    }
    answer = simulate_sweep(write(tmp_path, **change), None, ignore)
    rows = [row for row in answer["rows"] if row["policy"] == "lru" and row["tiers"]["host"] == 200 * 2**20]
    assert [(row["storage"], row["host_memory"]) for row in rows] == [
        *(("gds", memory) for memory in ("pinned", "pageable")),
        *(("bounce", memory) for memory in ("pinned", "pageable")),
    ]
    assert len({row["stall_s"] for row in rows}) == 2


def test_all_that_a_scenario_can_say_tells_cells_apart(tmp_path: Path) -> None:
    """Also those that an older file, whose rows say nothing of arrivals, does not name."""
    only = {"hardware": "t4", "policies": ["lru"], "tiers": {"device": "400MiB", "host": "200MiB"}}
    said: list[dict[str, Any]] = [
        {},
        {"storage": "gds"},
        {"host_memory": "pageable"},
        {"price": {"years": 2}},
        {"arrivals": "trace"},
        {"arrivals": "trace", "speed": 2},
    ]
    cells = [read_sweep(write(tmp_path, **only, **one)).cells[0] for one in said]
    assert len({cell.key for cell in cells}) == len({cell.fingerprint for cell in cells}) == len(said)
    older = {key: value for key, value in cells[0].head.items() if key not in ("arrivals", "speed")}
    assert cell_key(older) == cells[0].key


def test_arrivals_are_swept_too(tmp_path: Path) -> None:
    change = {"hardware": "t4", "policies": ["lru"], "arrivals": "trace", "speed": [0.01, 1000]}
    rows = simulate_sweep(write(tmp_path, **change), None, ignore)["rows"]
    slow, fast = ([row["queue_p99_s"] for row in rows if row["speed"] == speed] for speed in (0.01, 1000))
    assert len(slow) == len(fast) == 4
    assert max(slow) < min(fast)


def test_rows_of_another_sweep_are_not_lost(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    path = write(tmp_path, hardware="t4", policies=["lru"])
    simulate_sweep(path, out, ignore)
    kept = out.read_bytes()
    for change in ({"hardware": "a100"}, {"hardware": "t4", "tiers": {"device": "400MiB", "host": "200MiB"}}):
        with pytest.raises(InvalidOptionError, match=r"out.json holds \d+ cells that .* does not have; name another"):
            simulate_sweep(write(tmp_path, **{"policies": ["lru"], **change}), out, ignore)
        assert out.read_bytes() == kept


def test_a_cell_that_cannot_run_is_named(tmp_path: Path) -> None:
    write(tmp_path, tiers={"device": ["400MiB", "12MiB"], "host": "200MiB"}, hardware="t4", policies=["lru"])
    ran = offload("simulate", "s.yaml", "--sweep", "--out", "out.json", cwd=tmp_path)
    assert ran.returncode == 2
    assert "device 12,582,912" in complaint(ran)
    assert "the longest prompt needs" in complaint(ran)


def test_an_interrupt_ends_all_processes_and_keeps_what_is_done(tmp_path: Path) -> None:
    """The many requests would take minutes."""
    workload = {**GOOD["workload"], "num_requests": 2_000_000}
    write(tmp_path, workload=workload)
    command = [sys.executable, "-m", "offload.cli", "simulate", "s.yaml", "--sweep", "--out", "out.json"]
    with subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while len(workers := children.read_text().split()) < 2 and process.poll() is None:
            pass
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=60)
    assert (process.returncode, complaints) == (130, "offload: interrupted\n")
    wait_until_gone(workers)


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, [], "s.yaml: hardware: is a list; --sweep runs every combination"),
        ({"hardware": "t4"}, [], "s.yaml: tiers.host: is a list; --sweep"),
        ({"hardware": []}, ["--sweep"], "s.yaml: hardware: the list is empty"),
        ({"batch": {"min": 1, "max": 4}}, ["--sweep"], "s.yaml: batch: is a range, which 'offload tune' searches"),
        ({"hardware": ["t4", "t5"]}, ["--sweep"], "s.yaml: 't5' is none of the profiles that ship"),
        ({"tiers": {"device": ["1GB/s"]}}, ["--sweep"], "s.yaml: tiers.device: '1GB/s' is not a size"),
        ({"policies": ["lur"]}, ["--sweep"], "eviction policy 'lur' is unknown"),
        ({}, ["--out", "out.json"], "--out: out.json is for --sweep"),
        ({}, ["--sweep", "--out", "nowhere/out.json"], "--out: nowhere does not exist"),
        ({}, ["--sweep", "--out", "s.yaml"], "--out: s.yaml is no file of a sweep's results; name another file"),
    ],
)
def test_what_is_wrong(tmp_path: Path, change: dict[str, Any], arguments: list[str], message: str) -> None:
    path = write(tmp_path, **change)
    before = path.read_bytes()
    ran = offload("simulate", "s.yaml", *arguments, cwd=tmp_path)
    assert ran.returncode == 2
    assert message in complaint(ran)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["s.yaml"]


def test_a_scenario_without_lists_is_one_setting(tmp_path: Path) -> None:
    path = write(tmp_path, hardware="t4", tiers={"device": "1GiB"})
    assert len(load_scenario(path).policies) == 2
    assert len(read_sweep(path).cells) == 3


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    """Even where it is killed and can tell them nothing."""
    write(tmp_path, workload={**GOOD["workload"], "num_requests": 2_000_000})
    command = [sys.executable, "-m", "offload.cli", "simulate", "s.yaml", "--sweep"]
    with subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while len(workers := children.read_text().split()) < 2 and process.poll() is None:
            pass
        process.kill()
        # Ends when the last process that holds it does.
        assert process.stdout is not None
        assert process.stdout.read() == b""
    wait_until_gone(workers)


def wait_until_gone(pids: list[str]) -> None:
    """Their last files are closed; the rest of their end takes the system a moment. A hang would end the tests."""
    while any(_is_running(pid) for pid in pids):
        pass


def _is_running(pid: str) -> bool:
    """Not so one that is dead and that nobody has asked about yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("command", [("simulate", "s.yaml"), ("simulate", "s.yaml", "--sweep")])
def test_a_policy_that_cannot_take_these_keys_is_refused_at_once(tmp_path: Path, command: tuple[str, ...]) -> None:
    """Blocks of prompts are numbers, and no tuples as those of a run."""
    mine = "from tiers.eviction.lru import LRUPolicy\nclass Mine(LRUPolicy):\n    def touch(self, key):\n"
    (tmp_path / "mine.py").write_text(f"{mine}        sequence, layer, block = key\n", encoding="utf-8")
    write(tmp_path, hardware="t4", policies=["mine:Mine"], tiers={"device": "400MiB", "host": "200MiB"})
    ran = offload(*command, cwd=tmp_path)
    assert ran.returncode == 2
    said = complaint(ran)
    assert "'mine:Mine' is no eviction policy: touch raised TypeError: cannot unpack" in said
    assert "in mine.py:4" in said
    assert "hardware" not in said  # no cell had begun
