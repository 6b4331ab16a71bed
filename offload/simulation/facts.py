"""What has to be known besides the rows to run a scenario again."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simulators.scenario import Scenario


def scenario_facts(path: Path, settings: Mapping[str, Any], *, is_sweep: bool = False) -> dict[str, Any]:
    """Keys ``scenario``, ``command``, ``seed`` (None where the workload is a recorded trace), and what the file says of
    the workload: ``workload``, or of experts ``experts``, ``hardware``, ``model`` and ``tiers``.

    The command is that of the experiment: where its answer went is not part of it, so that the same one gives the same
    bytes.
    """
    told = ("hardware", "model", "tiers", "experts") if "experts" in settings else ("workload",)
    workload = settings[told[-1]]
    return {
        "scenario": str(path),
        "command": simulate_command(path, is_sweep=is_sweep),
        **{key: settings[key] for key in told},
        "seed": None if "trace" in workload else workload.get("seed", 0),
    }


def simulate_command(path: Path, *, is_sweep: bool) -> str:
    """That runs the experiment again."""
    return shlex.join(["offload", "simulate", str(path), *["--sweep"] * is_sweep])


def setting_facts(settings: Mapping[str, Any], scenario: Scenario) -> dict[str, Any]:
    """Keys ``hardware`` and ``model`` as the scenario names them, ``tiers`` (bytes), and all that has a default.

    Besides them ``storage``, ``host_memory`` and ``price``, where the scenario says anything of them.
    """
    asked = {key: settings[key] for key in ("storage", "host_memory", "price") if key in settings}
    return {
        "hardware": settings["hardware"],
        "model": settings["model"],
        "tiers": dict(scenario.tiers),
        "gate": scenario.gate.value,
        "batch": scenario.batch,
        "arrivals": scenario.arrivals.value,
        "speed": scenario.speed,
        **asked,
    }
