"""The settings of a run as options of a command."""

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest

from offload.commands.bench import experts, kv
from offload.commands.options import takes_settings
from offload.commands.plan import plan
from offload.commands.run import run
from offload.commands.trace import record
from offload.config import KEYS, RunConfig
from tiers.errors import InvalidOptionError


@pytest.mark.parametrize("command", [plan, run, record])
def test_a_command_within_a_budget_offers_every_setting(command: object) -> None:
    assert callable(command)
    offered = inspect.signature(command).parameters
    assert offered.keys() >= {*KEYS, "config"}
    assert "settings" not in offered


def test_options_come_before_the_file(tmp_path: Path) -> None:
    (tmp_path / "o.toml").write_text('policy = "lru"\nbatch = 3\n', encoding="utf-8")
    found: list[tuple[str, RunConfig]] = []

    @takes_settings
    def command(word: str, *, settings: RunConfig) -> None:
        found.append((word, settings))

    nothing: dict[str, object] = dict.fromkeys(KEYS)
    command("x", **(nothing | {"policy": "lfu"}), config=tmp_path / "o.toml")
    assert found == [("x", RunConfig(policy="lfu", batch=3))]
    with pytest.raises(InvalidOptionError, match="--batch: '0' is not a count"):
        command("x", **(nothing | {"batch": "0"}), config=None)


@pytest.mark.parametrize("command", [kv, experts])
def test_a_wrong_limit_of_a_benchmark_is_named(command: Callable[..., None]) -> None:
    with pytest.raises(InvalidOptionError, match="--memory-limit: 'lots' is not a size"):
        command(memory_limit="lots")
