"""What is sent to machines that have none of our code runs there alone."""

import subprocess
import sys
from pathlib import Path

import pytest

from offload.simulation.runners.shipment import shipment
from tiers.errors import InvalidOptionError

CODE = """
import sys
from pathlib import Path
import simulators.scenario
from offload.simulation.runners import on_ray
from tiers.eviction.registry import find_policy
print(find_policy("lru").__name__, find_policy("shipped.policy:Mine").__name__)
print(all(Path(sys.modules[name].__file__).is_relative_to(Path.cwd()) for name in ("simulators", "shipped", "offload")))
"""


def test_ours_and_a_policy_with_what_it_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "shipped"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "policy.py").write_text("from shipped.base import Base\nclass Mine(Base): pass\n")
    (package / "base.py").write_text("from tiers.eviction.lru import LRUPolicy as Base\n")
    (package / "large.txt").write_text("results of last year")
    (tmp_path / "unused.py").write_text("fails = 1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with shipment(["shipped.policy:Mine"]) as folder:
        assert all(path.suffix == ".py" for path in folder.rglob("*") if path.is_file())
        assert not (folder / "unused.py").exists()
        command = [sys.executable, "-c", CODE]
        ran = subprocess.run(command, cwd=folder, env={"PYTHONPATH": "."}, capture_output=True, text=True, check=False)
        assert (ran.stdout, ran.stderr) == ("LRUPolicy Mine\nTrue\n", "")
    assert not folder.exists()


def test_installed_modules_stay_where_they_are() -> None:
    with shipment([]) as folder:
        assert {path.name for path in folder.iterdir()} == {"tiers", "prefetch", "simulators", "offload"}


def test_a_policy_that_is_not_there() -> None:
    with pytest.raises(InvalidOptionError, match="No module named"), shipment(["nowhere_at_all:Mine"]):
        pass
