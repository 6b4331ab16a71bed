"""``offload bench``: the benchmark tables, each against its peers, its limit and the paper in the same run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from offload.commands import options
from offload.commands.output import Data, answering, progress_bar, say
from offload.runnable import runnable_model

if TYPE_CHECKING:
    from rich.console import RenderableType

bench_app = typer.Typer(help="Benchmarks against peers, limits and papers.", rich_markup_mode=None)

Model = Annotated[str, typer.Option(help="A Hugging Face directory, a packed store, or smollm2-135m.", metavar="MODEL")]


@bench_app.callback(invoke_without_command=True)
def bench(context: typer.Context) -> None:
    """Without a benchmark, the help."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@bench_app.command()
def io(*, nvme_dir: options.NvmeDir = None, as_json: options.Json = False) -> None:
    """Reads and writes of the nvme tier."""
    directory = options.drive_directory(nvme_dir)
    with answering(as_json) as answer:
        from offload.bench.io import bench_io

        with progress_bar("bench io") as progress:
            result = bench_io(directory, progress=progress)
        answer.show(result, _tables)


@bench_app.command()
def kv(
    *,
    model: Model = "smollm2-135m",
    nvme_dir: options.NvmeDir = None,
    as_json: options.Json = False,
) -> None:
    """Generation with a KV cache that does not fit."""
    directory = options.drive_directory(nvme_dir)
    with answering(as_json) as answer:
        path = runnable_model(model, notice=say)
        from offload.bench.kv import bench_kv

        with progress_bar("bench kv") as progress:
            result = bench_kv(path, directory, progress=progress)
        answer.show(result, _tables)


def _tables(data: Data) -> "Sequence[RenderableType]":
    from offload.render import bench_tables

    return bench_tables(data)
