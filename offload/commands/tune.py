"""``offload tune``: which policy and which budgets serve a workload best, searched on the simulator."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from offload.commands import options
from offload.commands.output import Data, answering, progress_bar
from tiers.errors import InvalidOptionError

if TYPE_CHECKING:
    from rich.console import RenderableType


def tune(
    scenario: Annotated[
        Path,
        typer.Argument(help="A scenario with lists, or ranges such as {min: 50GiB, max: 400GiB}.", metavar="SCENARIO"),
    ],
    *,
    objective: Annotated[str, typer.Option(help="Which figure of a row.", metavar="NAME")] = "tokens_per_s",
    maximize: Annotated[
        bool | None, typer.Option("--maximize/--minimize", help="Where the name of the figure does not tell.")
    ] = None,
    trials: Annotated[str, typer.Option(help="Most settings to simulate.", metavar="N")] = "50",
    timeout: Annotated[str | None, typer.Option(help="Most seconds to search.", metavar="S")] = None,
    jobs: Annotated[
        str | None, typer.Option(help="Settings side by side: all cores; 1 gives the same search again.", metavar="N")
    ] = None,
    seed: Annotated[str, typer.Option(help="Of the search.", metavar="N")] = "0",
    study: Annotated[
        Path | None, typer.Option(help="File or directory of what is learned, if not the user's cache.", metavar="PATH")
    ] = None,
    ray: options.Ray = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the best scenario here: best.yaml.", metavar="FILE")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Searches policy and budgets, and starts from what earlier searches learned."""
    num_trials = options.read_count("--trials", trials, least=1)
    num_jobs = None if jobs is None else options.read_count("--jobs", jobs, least=1)
    timeout_s = None if timeout is None else options.read_seconds("--timeout", timeout)
    if out is not None:
        if out.suffix.lower() not in (".yaml", ".yml"):
            raise InvalidOptionError(f"--out: {out} is written in YAML; name a .yaml file")
        options.check_out("--out", out)
    if ray is not None:
        options.check_ray(ray)
    with answering(as_json) as answer:
        from offload.tuning.tune import TuneOptions
        from offload.tuning.tune import tune as search

        wanted = TuneOptions(
            objective=objective,
            maximize=maximize,
            trials=num_trials,
            timeout_s=timeout_s,
            jobs=num_jobs,
            seed=options.read_count("--seed", seed, least=0),
            study=study,
            ray=ray,
            out=out,
        )
        with progress_bar("searching") as progress:
            result = search(scenario, wanted, progress)
        answer.show(result, _tables)
        if result["ended"] == "interrupted":
            raise KeyboardInterrupt


def _tables(data: Data) -> "Sequence[RenderableType]":
    from offload.tuning.render import tune_tables

    return tune_tables(data)
