"""``offload train-predictor``: from traces to a predictor that knows a token's path before the first layer runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from offload.commands import options
from offload.commands.output import Data, answering, progress_bar, say
from offload.runnable import runnable_model
from tiers.errors import InvalidOptionError

if TYPE_CHECKING:
    from rich.console import RenderableType

KINDS = ("routing-path", "pre-gate")


def train_predictor(
    traces: Annotated[list[Path], typer.Argument(help="Traces of one model.", metavar="TRACE...")],
    *,
    out: Annotated[Path, typer.Option("-o", "--out", help="File to write, .npz.", metavar="OUT")],
    kind: Annotated[str, typer.Option("--kind", help="routing-path or pre-gate.", metavar="KIND")] = "routing-path",
    model: Annotated[
        str | None,
        typer.Option("--model", help="The model of the traces, to start from its embeddings.", metavar="MODEL"),
    ] = None,
    test: Annotated[
        Path | None, typer.Option(help="Trace to score with; else a part of the others is held out.", metavar="TRACE")
    ] = None,
    steps: Annotated[str, typer.Option(help="Training steps.", metavar="N")] = "600",
    seed: Annotated[str, typer.Option(help="The same seed gives the same predictor.", metavar="N")] = "1",
    as_json: options.Json = False,
) -> None:
    """Trains a predictor of experts from traces, and says how well it does on tokens that it has not seen."""
    if kind not in KINDS:
        raise InvalidOptionError(f"--kind: '{kind}' is not a kind of predictor; write {' or '.join(KINDS)}")
    num_steps, seed_number = options.read_count("--steps", steps), options.read_count("--seed", seed)
    options.check_out("--out", out)
    for path in (*traces, *([test] if test else [])):
        options.check_trace(path)
    with answering(as_json) as answer:
        directory = None if model is None else runnable_model(model, notice=say)
        from offload.predictor_training.command import train_from_files
        from offload.predictor_training.network import Shape
        from offload.predictor_training.train import Course

        course = Course(Shape.of("pre-gate" if kind == "pre-gate" else "routing-path"), num_steps, seed_number)
        with progress_bar("training") as progress:
            result = train_from_files(traces, out, course, model=directory, test=test, progress=progress)
        answer.show(result, _tables)


def _tables(data: Data) -> "Sequence[RenderableType]":
    from offload.predictor_training.render import training_tables

    return training_tables(data)
