"""A sweep on a Ray cluster of this machine, started for it: the same bytes as without."""

import pickle
from pathlib import Path

import pytest

from offload.simulation.kv_cells import KVSetting
from offload.simulation.runners import on_ray
from offload.simulation.runners.base import Refused
from offload.simulation.scenario_file import read_scenario
from offload.simulation.sweep import read_sweep
from simulators.scenario import Experiment
from tests.offload.simulation.test_sweep import write
from tests.offload.test_cli import complaint, offload
from tiers.errors import WorldError


def test_what_a_worker_does(tmp_path: Path) -> None:
    """It gets a setting without a file, the requests beside it, and gives what the scenario gives here."""
    path = write(tmp_path, hardware="t4", tiers={"device": "400MiB", "host": "200MiB"})
    sweep = read_sweep(path)
    cells = sweep.cells
    requests = sweep.maker.workload(cells[0].settings)
    assert sweep.maker.workload(cells[1].settings) is requests
    setting = on_ray.sent_setting(cells[0], sweep.maker)
    assert isinstance(setting.setting, KVSetting)
    assert list(setting.setting.scenario.trace.requests) == []
    sent: on_ray.SentSetting = pickle.loads(pickle.dumps(setting))  # as Ray does
    here = Experiment(read_scenario(cells[0].settings, path))
    rows = [here.run(cell.head["policy"]) for cell in cells]
    assert [on_ray.run_cell(sent, requests, cell.head) for cell in cells] == rows
    assert isinstance(on_ray.run_cell(sent, requests, {"policy": "lur"}), Refused)


def test_a_cell_that_ray_loses_is_named(tmp_path: Path) -> None:
    exceptions = pytest.importorskip("ray.exceptions")
    cell = read_sweep(write(tmp_path)).cells[0]
    error = on_ray.explain(exceptions.WorkerCrashedError(), cell)
    assert isinstance(error, WorldError)
    assert str(error).startswith("hardware a100, model smollm2-135m, tiers device 419,430,400 + host 209,715,200")
    assert "lost by Ray in 4 tries" in str(error)
    theirs = exceptions.RayTaskError("run_cell", "traceback", ZeroDivisionError("by zero"))
    assert isinstance(on_ray.explain(theirs, cell), ZeroDivisionError)


@pytest.mark.slow
def test_rows_are_those_of_this_machine_alone(tmp_path: Path) -> None:
    """A policy of one's own that imports another module goes along; workers find both."""
    pytest.importorskip("ray")
    (tmp_path / "helper.py").write_text("from tiers.eviction.lru import LRUPolicy as Base\n", encoding="utf-8")
    (tmp_path / "mine.py").write_text("from helper import Base\nclass Mine(Base): pass\n", encoding="utf-8")
    write(tmp_path, hardware="t4", policies=["mine:Mine"], tiers={"device": "400MiB", "host": ["200MiB"]})
    command = ("simulate", "s.yaml", "--sweep", "--json")
    path = {"PYTHONPATH": f".:{Path(__file__).parents[4]}"}
    alone = offload(*command, cwd=tmp_path, **path)
    assert (alone.returncode, alone.stderr) == (0, "")
    out = ("--out", "out.json")
    # The default folder of temporary files has a short name, as sockets must have; that of a test has not.
    ran = offload(*command, *out, "--ray", "local", cwd=tmp_path, **path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == alone.stdout
    assert (tmp_path / "out.json").read_text(encoding="utf-8") == alone.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ray", "local"], "--ray: local is for --sweep; give that too"),
        (["--sweep", "--ray", "nowhere"], "--ray: 'nowhere' is no address"),
        (["--sweep", "--ray", "127.0.0.1:1"], "--ray 127.0.0.1:1: no Ray answers at 127.0.0.1:1"),
    ],
)
def test_what_is_wrong(tmp_path: Path, arguments: list[str], message: str) -> None:
    if "127.0.0.1:1" in arguments:
        pytest.importorskip("ray")
    write(tmp_path)
    ran = offload("simulate", "s.yaml", *arguments, cwd=tmp_path)
    assert ran.returncode == 2
    assert message in complaint(ran)


def test_without_ray(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "ray.py").write_text("raise ImportError", encoding="utf-8")
    path = f"{tmp_path}:{Path(__file__).parents[4]}"
    ran = offload("simulate", "s.yaml", "--sweep", "--ray", "local", cwd=tmp_path, PYTHONPATH=path)
    assert ran.returncode == 2
    assert complaint(ran) == "offload: --ray: Ray is not installed; pip install 'offload-runtime[ray]'"
