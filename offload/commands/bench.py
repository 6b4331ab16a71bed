"""``offload bench``: the benchmark tables, each against its peers, its limit and the paper in the same run."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from offload.commands import options
from offload.commands.output import Data, answering, progress_bar, say
from offload.runnable import runnable_model

if TYPE_CHECKING:
    from rich.console import RenderableType

bench_app = typer.Typer(help="Benchmarks against peers, limits and papers.", rich_markup_mode=None)


@bench_app.callback(invoke_without_command=True)
def bench(context: typer.Context) -> None:
    """Without a benchmark, the help."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@bench_app.command()
def io(*, nvme_dir: options.NvmeDir = None, device: options.Device = None, as_json: options.Json = False) -> None:
    """Reads and writes of the nvme tier, and copies to and from a GPU."""
    directory, on = options.drive_directory(nvme_dir), options.device_name(device)
    with answering(as_json) as answer:
        from offload.bench.io import bench_io

        with progress_bar("bench io") as progress:
            result = bench_io(directory, progress=progress, device=None if on == "cpu" else on)
        answer.show(result, _tables)


@bench_app.command()
def kv(
    *,
    model: Annotated[
        str | None,
        typer.Option("--model", help="smollm2-135m if not given; on a GPU a synthetic one of 7 GB.", metavar="MODEL"),
    ] = None,
    memory_limit: Annotated[
        str | None,
        typer.Option(help="Of the runs in a memory cgroup; else as little as they should do with.", metavar="SIZE"),
    ] = None,
    device: options.Device = None,
    nvme_dir: options.NvmeDir = None,
    as_json: options.Json = False,
) -> None:
    """Generation with weights and a KV cache that do not fit."""
    directory, on = options.drive_directory(nvme_dir), options.device_name(device)
    limit = None if memory_limit is None else options.read_size("--memory-limit", memory_limit)
    with answering(as_json) as answer:
        if on != "cpu":
            from offload.bench.gpu_kv import bench_kv_on_gpu

            given = None if model is None else runnable_model(model, notice=say)
            with progress_bar("bench kv") as progress:
                on_gpu = bench_kv_on_gpu(given, directory, on, progress=progress, memory_limit=limit)
            answer.show(on_gpu, _tables)
            return
        path = runnable_model(model or "smollm2-135m", notice=say)
        from offload.bench.kv import Sizes as KVSizes
        from offload.bench.kv import bench_kv

        with progress_bar("bench kv") as progress:
            result = bench_kv(path, directory, progress=progress, sizes=KVSizes(memory_limit=limit))
        answer.show(result, _tables)


@bench_app.command()
def experts(
    *,
    model: Annotated[
        str | None,
        typer.Option("--model", help="A mixture of experts; else a synthetic one of 3.5 GB.", metavar="MODEL"),
    ] = None,
    memory_limit: Annotated[str, typer.Option(help="Of each run, in a memory cgroup.", metavar="SIZE")] = "1GiB",
    cached: Annotated[
        str | None, typer.Option(help="Share of the experts to cache, such as 50%, whatever fits.", metavar="SHARE")
    ] = None,
    predictor: Annotated[Path | None, typer.Option(help="A trained predictor to compare.", metavar="FILE")] = None,
    steps: Annotated[str, typer.Option(help="Decode steps of each run.", metavar="N")] = "96",
    device: options.Device = None,
    nvme_dir: options.NvmeDir = None,
    as_json: options.Json = False,
) -> None:
    """Mixtures of experts: eviction policies, predictors and precisions."""
    directory, on = options.drive_directory(nvme_dir), options.device_name(device)
    limit = options.read_size("--memory-limit", memory_limit)
    share = None if cached is None else options.read_share("--cached", cached)
    count = options.read_count("--steps", steps, least=8)
    with answering(as_json) as answer:
        path = None if model is None else runnable_model(model, notice=say)
        if on != "cpu":
            from offload.bench.gpu_experts import bench_experts_on_gpu

            with progress_bar("bench experts") as progress:
                answer.show(bench_experts_on_gpu(path, directory, on, progress=progress), _tables)
            return
        from offload.bench.experts import Sizes, bench_experts

        sizes = Sizes(memory_limit=limit, slots_share=share, steps=count)
        with progress_bar("bench experts") as progress:
            result = bench_experts(path, directory, predictor=predictor, sizes=sizes, progress=progress)
        answer.show(result, _tables)


@bench_app.command()
def simulator(
    *,
    model: Annotated[
        str, typer.Option("--model", help="The dense model that is run.", metavar="MODEL")
    ] = "smollm2-135m",
    mixture: Annotated[
        str | None, typer.Option(help="A mixture of experts; else a synthetic one of 1.9 GB.", metavar="MODEL")
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Only published tables beside what is foretold; runs nothing.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option(help="Setups with this in their name; several times for more.", metavar="TEXT")
    ] = None,
    nvme_dir: options.NvmeDir = None,
    as_json: options.Json = False,
) -> None:
    """What the simulator foretells, against real runs on this machine and against published tables."""
    directory = options.drive_directory(nvme_dir)
    with answering(as_json) as answer:
        from offload.bench.published_table import simulator_tables

        if published:
            from offload.bench.published import bench_published

            answer.show(bench_published(), simulator_tables)
            return
        from offload.bench.simulator import Sizes, bench_simulator
        from offload.bench.simulator_setups import setups_with

        sizes = Sizes(setups=setups_with(only or ()))  # before the work
        path = runnable_model(model, notice=say)
        other = None if mixture is None else runnable_model(mixture, notice=say)
        with progress_bar("bench simulator") as progress:
            result = bench_simulator(path, directory, mixture=other, progress=progress, sizes=sizes)
        answer.show(result, simulator_tables)


@bench_app.command()
def csd(
    *,
    model: Annotated[str | None, typer.Option("--model", help="smollm2-135m if not given.", metavar="MODEL")] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="A number of the drive, as channels=16.", metavar="NAME=VALUE"),
    ] = None,
    drive: Annotated[str, typer.Option("--drive", help="A published drive, or a .json file.", metavar="NAME")] = (
        "instattention"
    ),
    whole: Annotated[bool, typer.Option("--frontier", help="The accuracy of every engine, at length.")] = False,
    text: Annotated[
        Path | None, typer.Option(help="Measure accuracy on this text; else on the help of Python.", metavar="FILE")
    ] = None,
    nvme_dir: options.NvmeDir = None,
    as_json: options.Json = False,
) -> None:
    """Attention inside an emulated drive, and InstAttention's published figures."""
    directory = options.drive_directory(nvme_dir)
    with answering(as_json) as answer:
        from offload.bench.csd import bench_csd
        from offload.simulation.drive_setup import settings_of
        from offload.texts import read_text

        settings = settings_of(change or [])
        if text is not None:
            read_text(text)  # before the work
        path = runnable_model(model or "smollm2-135m", notice=say)
        with progress_bar("bench csd") as progress:
            result = bench_csd(
                path, directory, settings=settings, drive=drive, is_whole=whole, text=text, progress=progress
            )
        answer.show(result, _tables)


@bench_app.command()
def policies(
    *,
    trace: Annotated[Path | None, typer.Option(help="Requests; else the sample that ships.", metavar="FILE")] = None,
    as_json: options.Json = False,
) -> None:
    """Speed and memory of eviction policies, and of the manager on a whole trace."""
    with answering(as_json) as answer:
        from offload.bench.policies import SAMPLE, bench_policies

        with progress_bar("bench policies") as progress:
            result = bench_policies(trace or SAMPLE, progress=progress)
        answer.show(result, _tables)


def _tables(data: Data) -> "Sequence[RenderableType]":
    from offload.render import bench_tables

    return bench_tables(data)
