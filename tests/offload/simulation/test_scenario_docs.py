"""The page on scenario files names every key that there is, and its example runs as it stands."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from offload.simulation import drive_scenario, drive_sweep, expert_scenario, scenario_file
from offload.simulation.axes import SWEPT
from offload.simulation.scenario_file import load_scenario
from offload.tuning import task
from simulators.published import published_names

PAGE = Path(__file__).parents[3] / "docs" / "scenarios.md"
TEXT = PAGE.read_text(encoding="utf-8")


def keys() -> set[str]:
    """Of scenarios, workloads, drives and searches."""
    workloads = {field.name for make in scenario_file.WORKLOADS.values() for field in fields(make)}
    drives = {*drive_scenario.KEYS, *drive_scenario.DRIVE_KEYS}
    return {
        *scenario_file.KEYS,
        *scenario_file.PRICE_KEYS,
        *workloads,
        *scenario_file.WORKLOADS,
        *drives,
        *expert_scenario.KEYS,
        *expert_scenario.EXPERT_KEYS,
        *task.OWN_KEYS,
    }


@pytest.mark.parametrize("key", sorted(keys()))
def test_every_key_is_told_of(key: str) -> None:
    assert re.search(rf"`((drive|experts)\.)?{re.escape(key)}`", TEXT), f"docs/scenarios.md does not name '{key}'"


def test_what_ships_and_what_is_swept_is_named() -> None:
    shipped = {name for kind in ("profiles", "models", "drives") for name in published_names(kind)}
    shipped |= {path.stem for path in scenario_file.SHIPPED.glob("*.yaml")}
    assert {
        name
        for name in shipped | {*SWEPT, *drive_sweep.DRIVE_SWEPT, *expert_scenario.EXPERT_SWEPT}
        if f"`{name}`" not in TEXT
    } == set()


def test_the_example_can_be_read(tmp_path: Path) -> None:
    example = re.search(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    assert example is not None
    (tmp_path / "s.yaml").write_text(example[1], encoding="utf-8")
    assert load_scenario(tmp_path / "s.yaml").policies == ["lru", "arc"]
