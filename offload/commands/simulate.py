"""``offload simulate``: replays requests on a hardware profile with the policies that ship, or with one's own."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from offload.commands import options
from offload.commands.output import Data, answering, progress_bar

if TYPE_CHECKING:
    from rich.console import RenderableType


def simulate(
    scenario: Annotated[
        Path, typer.Argument(help="A YAML file, or the name of one that ships: mooncake_lru.", metavar="SCENARIO")
    ],
    *,
    as_json: options.Json = False,
) -> None:
    """Replays a workload on a modelled machine, policy by policy, beside what no policy can beat."""
    with answering(as_json) as answer:
        from offload.simulation.scenario_file import load_scenario
        from simulators.scenario import run_scenario

        loaded = load_scenario(scenario)
        with progress_bar("simulating") as progress:
            rows = run_scenario(loaded, progress)
        answer.show({"scenario": scenario, "hardware": loaded.profile.name, "rows": rows}, _tables)


def _tables(data: Data) -> "Sequence[RenderableType]":
    from offload.simulation.render import simulation_tables

    return simulation_tables(data)
