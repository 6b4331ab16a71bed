"""What is better than what, and which figures there are to ask for."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from offload.simulation.kv_cells import KVCells
from offload.tuning.goal import Goal, read_goal
from offload.tuning.space import read_space
from tests.offload.tuning.scenarios import write_hot
from tiers.errors import InvalidOptionError

GIB = 2**30


def goal(folder: Path, objective: str, *, maximize: bool | None = None, **keys: Any) -> Goal:
    path = write_hot(folder, rounds=1)
    settings = {**yaml.safe_load(path.read_text(encoding="utf-8")), **keys}
    maker = KVCells(path)
    space = read_space(settings, maker)
    setting = maker.setting({k: v for k, v in space.scenario(next(space.choices())).items() if k not in keys})
    return read_goal(settings, setting, objective, maximize=maximize)


def row(value: float, host: int, **figures: float) -> dict[str, Any]:
    return {"policy": "lru", "hit_ratio": value, "tiers": {"device": GIB, "host": host * GIB}, **figures}


@pytest.mark.parametrize(
    ("objective", "is_maximized"),
    [
        ("tokens_per_s", True),
        ("device_hit_ratio", True),
        ("ttft_p99_s", False),
        ("stall_s", False),
        ("belady_gap", False),
        ("tiers.host", False),
        ("memory_bytes", False),
    ],
)
def test_any_number_of_a_row_can_be_the_objective(tmp_path: Path, objective: str, is_maximized: bool) -> None:
    assert goal(tmp_path, objective).is_maximized is is_maximized
    assert goal(tmp_path, objective, maximize=not is_maximized).is_maximized is not is_maximized


def test_limits_come_first_then_the_objective_then_memory(tmp_path: Path) -> None:
    wanted = goal(tmp_path, "hit_ratio", limits={"ttft_s": 2}, prices={"host": 3, "device": 10})
    rows = [
        row(0.5, 1, ttft_s=1.0),
        row(0.5, 2, ttft_s=1.0),
        row(0.4, 1, ttft_s=2.0),
        row(0.9, 1, ttft_s=2.5),
        row(0.9, 1, ttft_s=3.0),
    ]
    ranks = [wanted.rank(wanted.figures(one)) for one in rows]
    assert ranks == sorted(ranks)
    figures = wanted.figures(rows[1])
    assert (figures["memory_price"], figures["memory_bytes"], figures["tiers.host"]) == (16, 3 * GIB, 2 * GIB)
    assert not wanted.can_judge(wanted.figures(row(0.5, 1)))


def test_a_number_alone_is_the_worst_that_will_do(tmp_path: Path) -> None:
    limits = {"hit_ratio": 0.4, "ttft_s": {"min": 1, "max": 2}, "memory_bytes": "2GiB"}
    wanted = goal(tmp_path, "tokens_per_s", limits=limits)
    excess = wanted.excess(wanted.figures(row(0.3, 1, ttft_s=3.0)))
    assert excess == {"hit_ratio": pytest.approx(0.25), "ttft_s": 0.5, "memory_bytes": 0.0}
    assert wanted.excess({"ttft_s": 0.5}) == {"ttft_s": 0.5}
    assert wanted.forbids({"device": GIB, "host": 2 * GIB})
    assert not wanted.forbids({"device": GIB, "host": GIB})


@pytest.mark.parametrize(
    ("objective", "keys", "message"),
    [
        ("tokens_per_sec", {}, "--objective: 'tokens_per_sec' is no figure of a row; did you mean 'tokens_per_s'?"),
        ("policy", {}, "--objective: 'policy' is no figure of a row"),
        ("ttft_s", {"limits": {"ttft_p9_s": 1}}, "limits: 'ttft_p9_s' is no figure of a row; did you mean 'ttft_p9"),
        ("ttft_s", {"limits": {"memory_price": 1}}, "limits: 'memory_price' is no figure"),
        ("ttft_s", {"limits": 3}, "limits: 3 is no mapping"),
        ("ttft_s", {"limits": {"ttft_s": "fast"}}, "limits.ttft_s: 'fast' is no number"),
        ("ttft_s", {"limits": {"ttft_s": {}}}, "limits.ttft_s: {} is no limit; write a number"),
        ("ttft_s", {"limits": {"ttft_s": {"min": 2, "max": 1}}}, "limits.ttft_s: {'min': 2, 'max': 1} is no limit"),
        ("ttft_s", {"limits": {"tiers.host": "2Gib"}}, "limits.tiers.host: '2Gib' is not a size; write 2GiB"),
        ("ttft_s", {"prices": {"hots": 1}}, "prices: 'hots' is none of the tiers; did you mean 'host'?"),
        ("ttft_s", {"prices": {"host": -1}}, "prices.host: -1 is no price of a GiB"),
    ],
)
def test_what_is_wrong(tmp_path: Path, objective: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOptionError) as error:
        goal(tmp_path, objective, **keys)
    assert str(error.value).startswith(message)
