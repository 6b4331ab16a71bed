"""``offload simulate``: replays requests on a hardware profile with the policies that ship, or with one's own."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from offload.commands import options
from offload.commands.output import Data, answering, progress_bar
from tiers.errors import InvalidOptionError

if TYPE_CHECKING:
    from rich.console import RenderableType


def simulate(
    scenario: Annotated[
        Path, typer.Argument(help="A YAML file, or the name of one that ships: mooncake_lru.", metavar="SCENARIO")
    ],
    *,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Run every combination of what the scenario lists, on all cores.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Keep a sweep's results here; what is there already is not run again.", metavar="FILE"),
    ] = None,
    ray: options.Ray = None,
    as_json: options.Json = False,
) -> None:
    """Replays a workload on a modelled machine, policy by policy, beside what no policy can beat."""
    if out is not None:
        if not sweep:
            raise InvalidOptionError(f"--out: {out} is for --sweep; give that too, or write --json > {out}")
        options.check_out("--out", out)
    if ray is not None:
        if not sweep:
            raise InvalidOptionError(f"--ray: {ray} is for --sweep; give that too")
        options.check_ray(ray)
    with answering(as_json) as answer:
        from offload.simulation.simulate import simulate_one, simulate_sweep

        with progress_bar("simulating") as progress:
            result = simulate_sweep(scenario, out, progress, ray=ray) if sweep else simulate_one(scenario, progress)
        answer.show(result, _tables)


def _tables(data: Data) -> "Sequence[RenderableType]":
    from offload.simulation.render import simulation_tables

    return simulation_tables(data)
