"""How near searches are to each other, and where what they learned is kept."""

import stat
from pathlib import Path

import pytest

from offload.tuning.learned import distance, opened
from tiers.errors import InvalidOptionError

pytest.importorskip("optuna")

ONE = {"model": {"layers": 32.0}, "hardware": {"rate": 100.0}, "workload": {"requests": 10.0}}


@pytest.mark.parametrize(
    ("other", "far"),
    [
        (ONE, 0.0),
        ({**ONE, "hardware": {"rate": 50.0}}, 0.5),
        ({**ONE, "hardware": {"rate": 0.0}}, 1.0),
        ({**ONE, "hardware": {"rate": 100.0, "another": 1.0}}, 0.5),
        ({**ONE, "workload": {}}, 1.0),
        ({}, 3.0),
    ],
)
def test_distance(other: dict[str, dict[str, float]], far: float) -> None:
    assert distance(ONE, other) == distance(other, ONE) == far


def test_files_are_for_their_owner(tmp_path: Path) -> None:
    path = tmp_path / "tune" / "study.jsonl"
    with opened(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_where_nothing_can_be_kept(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidOptionError, match=r"study.jsonl: cannot be read: Not a directory"):
        opened(tmp_path / "file" / "study.jsonl").__enter__()
