"""What lists and ranges of a scenario stand for."""

from pathlib import Path
from typing import Any

import pytest

from offload.simulation.kv_cells import KVCells
from offload.tuning.space import Space, read_space
from offload.tuning.task import read_task
from tests.offload.tuning.scenarios import HOT, write_hot
from tiers.errors import InvalidOptionError

GIB = 2**30


def space(**changes: Any) -> Space:
    return read_space({**HOT, **changes}, KVCells(Path("s.yaml")))


def values(read: Space) -> dict[str, tuple[Any, ...]]:
    return {axis.name: axis.values for axis in read.axes}


def test_lists_ranges_and_single_values() -> None:
    tiers = {"device": "1GiB", "host": {"min": "50GiB", "max": "400GiB"}, "nvme": ["4GiB", "2GiB", "4GiB"]}
    read = space(tiers=tiers, batch={"min": 1, "max": 4}, gate=["sooner", "load"], policies="lru")
    found = values(read)
    assert found["tiers.device"] == (GIB,)
    assert found["tiers.host"] == (*range(50 * GIB, 400 * GIB, 8 * GIB), 400 * GIB)
    assert found["tiers.nvme"] == (2 * GIB, 4 * GIB)
    assert (found["batch"], found["gate"], found["policy"]) == ((1, 2, 3, 4), ("sooner", "load"), ("lru",))
    assert read.size == len(list(read.choices())) == 45 * 2 * 4 * 2
    assert [axis.name for axis in read.searched] == ["gate", "batch", "tiers.host", "tiers.nvme"]


def test_a_choice_is_a_scenario_without_lists() -> None:
    read = space(policy="ignored beside policies", gate=["load", "sooner"])
    choice = next(read.choices())
    scenario = read.scenario(choice)
    assert scenario["policies"] == ["fifo"]
    assert "policy" not in scenario
    assert (scenario["gate"], scenario["workload"]) == ("load", HOT["workload"])
    assert scenario["tiers"] == {"device": HOT["tiers"]["device"], "host": HOT["tiers"]["host"]["min"]}


def test_requests_that_come_when_the_trace_says() -> None:
    read = space(arrivals="trace", speed=[2, 0.5])
    assert values(read)["speed"] == (0.5, 2.0)
    assert [read.scenario(choice)["arrivals"] for choice in read.choices()][:1] == ["trace"]
    choice = read.nearest({axis.name: axis.values[0] for axis in read.axes} | {"speed": 1.9})
    assert choice is not None
    assert read.scenario(choice)["speed"] == 2.0


def test_the_nearest_to_what_another_search_chose() -> None:
    read = space(tiers={"device": "1GiB", "host": ["2GiB", "8GiB"]}, policies=["lru", "arc"])
    other = {"hardware": "h100", "model": "big", "tiers.device": 7, "tiers.host": 6 * GIB, "policy": "arc"}
    found = {"hardware": "t4", "model": "smollm2-135m", "tiers.device": GIB, "tiers.host": 8 * GIB, "policy": "arc"}
    assert read.nearest(other) == found
    assert read.nearest({**other, "policy": "fifo"}) is None
    assert read.nearest({"policy": "arc"}) is None


def test_the_task_that_ships_can_be_read() -> None:
    task = read_task(Path("mooncake_tune"), "tokens_per_s")
    assert task.space.size > 1000
    assert task.goal.limits.keys() == {"memory_price", "ttft_p99_s"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policies": []}, "policy: the list is empty"),
        ({"policies": ["lru"], "tiers": {"device": "1GiB"}}, "nothing to choose from; write a list such as"),
        ({"tiers": {"device": {"min": "2GiB", "max": "1GiB"}}}, "tiers.device: min 2GiB is above max 1GiB; swap them"),
        ({"tiers": {"device": {"min": "2GiB"}}}, "tiers.device: a range has min and max; one of them is missing"),
        ({"tiers": {"device": {"mni": "2GiB"}}}, "tiers.device: unknown key 'mni'; did you mean 'min'?"),
        ({"tiers": {"device": {"min": "2Gi", "max": "3GiB"}}}, "tiers.device.min: '2Gi' is not a size"),
        (
            {"tiers": {"device": {"min": 1, "max": "3GiB", "step": 1}}},
            "tiers.device.step: 1 makes no steps or too many",
        ),
        ({"tiers": {"device": {"min": 1, "max": 9, "step": 0}}}, "tiers.device.step: 0 makes no steps or too many"),
        ({"tiers": {"device": []}}, "tiers.device: the list is empty"),
        ({"tiers": 7}, "tiers: is missing or no mapping"),
        ({"hardware": {"min": 1, "max": 2}}, "hardware: a range is for sizes and batch; write a list of names"),
        ({"hardware": [1]}, "hardware: 1 is no name; write one"),
        ({"speed": [1, "fast"]}, "speed: 'fast' is no number above 0; write one, or a list of them"),
        ({"speed": {"min": 1, "max": 2}}, "speed: {'min': 1, 'max': 2} is no number above 0"),
        ({"speed": []}, "speed: the list is empty"),
        ({"batch": [0, 1]}, "batch: 0 is no whole number from 1 up"),
        ({"batch": {"min": 1, "max": True}}, "batch.max: True is no whole number from 1 up"),
    ],
)
def test_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOptionError) as error:
        space(**changes)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("hardware", [["t4", "a100"], ["a100", "t4"]])
def test_what_only_one_machine_holds_is_tried_there(tmp_path: Path, hardware: list[str]) -> None:
    """Whichever of them comes first: 30 GiB of the device are too much for a T4."""
    path = write_hot(tmp_path, rounds=1, hardware=hardware, tiers={"device": ["1GiB", "30GiB"]})
    task = read_task(path, "hit_ratio")
    assert (task.space.size, task.base["tiers.device"]) == (16, GIB)
    only_there = write_hot(tmp_path, "there.yaml", rounds=1, hardware=hardware, tiers={"device": ["30GiB", "31GiB"]})
    with pytest.raises(InvalidOptionError, match=r"'device' has 32,212,254,720 bytes besides .*; 't4' has"):
        read_task(only_there, "hit_ratio")
    none = write_hot(tmp_path, "none.yaml", rounds=1, hardware=hardware, tiers={"device": ["1GiB", "900GiB"]})
    with pytest.raises(InvalidOptionError, match="'device' has 966,367,641,600 bytes besides"):
        read_task(none, "hit_ratio")
