"""``offload report``: what other commands measured as one page of plots."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from offload.commands import options
from offload.commands.output import Data, answering
from offload.sizes import format_size

if TYPE_CHECKING:
    from rich.console import RenderableType


def report(
    results: Annotated[
        list[Path],
        typer.Argument(
            help="What simulate, bench, run, trace info or tune printed with --json, or what run --trace-out wrote.",
            metavar="RESULTS...",
        ),
    ],
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write, such as out.html.", metavar="FILE")],
    as_json: options.Json = False,
) -> None:
    """Writes one HTML page that needs no network, with plots and tables of results."""
    options.check_out("--out", out)
    with answering(as_json) as answer:
        from offload.report.write import write_report

        answer.show(write_report(results, out), _tables)


def _tables(data: Data) -> "Sequence[RenderableType]":
    from rich.text import Text

    return [
        Text(f"{data['out']}: {data['plots']} plots of {len(data['results'])} results, {format_size(data['bytes'])}")
    ]
