"""``offload trace``: records what the routers of a model choose; says what this and other traces show."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from offload.commands import options
from offload.commands.output import Data, MakeTables, answering, progress_bar, say
from offload.commands.prompt import read_prompt
from offload.config import RunConfig
from tiers.errors import InvalidOptionError

if TYPE_CHECKING:
    from rich.console import RenderableType

trace_app = typer.Typer(help="Traces of experts that are visited, and of requests to servers.", rich_markup_mode=None)


@trace_app.callback(invoke_without_command=True)
def trace(context: typer.Context) -> None:
    """Without a command, the help."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@trace_app.command()
@options.takes_settings
def record(
    model: options.Model,
    *,
    prompt_file: Annotated[Path | None, typer.Option(help="File with the text; - is stdin.", metavar="FILE")] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="File to write, .npz.", metavar="OUT")],
    requests: Annotated[str, typer.Option(help="Pieces to cut the text into.", metavar="N")] = "1",
    prompt_tokens: Annotated[str, typer.Option(help="Tokens of each prompt.", metavar="P")] = "256",
    max_new_tokens: Annotated[str, typer.Option(help="Decode steps after each.", metavar="M")] = "64",
    forced: Annotated[bool, typer.Option("--forced", help="Decode the text that follows, not the model's.")] = False,
    gate_inputs: Annotated[
        bool,
        typer.Option("--gate-inputs", help="Record what the gates are given too: 2 bytes x layers x hidden a token."),
    ] = False,
    settings: RunConfig,
    as_json: options.Json = False,
) -> None:
    """Runs a mixture of experts over a text and writes which experts each token visits."""
    if prompt_file is None:
        raise InvalidOptionError("--prompt-file: missing; name a file with the text, - is stdin")
    text = read_prompt(None, prompt_file)
    counts = (("--requests", requests), ("--prompt-tokens", prompt_tokens), ("--max-new-tokens", max_new_tokens))
    num_requests, num_prompt, num_new = (options.read_count(option, given) for option, given in counts)
    options.check_out("--out", out)
    with answering(as_json) as answer:
        from offload.runnable import runnable_model

        path = runnable_model(model, notice=say)
        from offload.traces.record import Course, record_trace, text_tokens
        from offload.traces.summary import summarise_trace

        course = Course(num_requests, num_prompt, num_new, forced)
        tokens = text_tokens(path, text, course)
        with progress_bar("recording") as progress:
            recorded = record_trace(settings, path, tokens, course, gate_inputs=gate_inputs, progress=progress)
        recorded.save(out)
        answer.show({"out": out, "bytes": out.stat().st_size, **summarise_trace(recorded)}, _tables)


@trace_app.command()
def info(
    file: Annotated[Path, typer.Argument(help="A trace of experts or requests, or a sample's name.", metavar="FILE")],
    *,
    slots: Annotated[
        str | None,
        typer.Option(help="What a cache holds, for the ideal hit ratio; half of the experts, all blocks.", metavar="N"),
    ] = None,
    batch: Annotated[
        str | None, typer.Option(help="Compare ways of putting N requests at a time side by side.", metavar="N")
    ] = None,
    predictor: Annotated[
        Path | None, typer.Option(help="A trained predictor, whose paths are one of these ways.", metavar="PREDICTOR")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Says how skewed, how local and how predictable routing is, or how much of their prompts requests share."""
    num_slots = None if slots is None else options.read_count("--slots", slots)
    num_requests = None if batch is None else options.read_count("--batch", batch)
    with answering(as_json) as answer:
        from simulators.kv_trace.formats import find_trace, sample_names

        options.check_trace(find_trace(file), samples=sample_names())
        answer.show(*_told(file, num_slots, num_requests, predictor))


@trace_app.command()
def convert(
    file: Annotated[Path, typer.Argument(help="A trace of requests, or a sample's name.", metavar="FILE")],
    out: Annotated[Path, typer.Argument(help="File to write; gzipped if it ends in .gz.", metavar="OUT")],
    *,
    to: Annotated[str, typer.Option(help="offload or mooncake.", metavar="FORMAT")] = "offload",
    as_json: options.Json = False,
) -> None:
    """Writes a trace of Mooncake, Azure, vLLM or LMCache in our format or in Mooncake's."""
    options.check_out("OUT", out)
    with answering(as_json) as answer:
        from offload.traces.render import kv_trace_tables
        from offload.traces.summary import summarise_kv_trace
        from simulators.kv_trace.formats import find_trace, open_kv_trace, sample_names, write_kv_trace

        options.check_trace(find_trace(file), samples=sample_names())
        write_kv_trace(out, open_kv_trace(file), to)
        answer.show({"out": out, "bytes": out.stat().st_size, **summarise_kv_trace(out)}, kv_trace_tables)


def _told(file: Path, slots: int | None, batch: int | None, predictor: Path | None) -> tuple[Data, MakeTables]:
    if _is_archive(file):
        from offload.traces.summary import summarise_batching, summarise_trace
        from simulators.expert_trace import ExpertTrace

        trace = ExpertTrace.load(file)
        data = {"file": file, **summarise_trace(trace, slots)}
        if batch is not None:
            data["batching"] = summarise_batching(trace, batch, predictor)
        return data, _tables
    if batch is not None:
        raise InvalidOptionError(f"--batch {batch}: {file} is no trace of experts; leave the option out")
    from offload.traces.render import kv_trace_tables
    from offload.traces.summary import summarise_kv_trace

    return {"file": file, **summarise_kv_trace(file, slots)}, kv_trace_tables


def _is_archive(file: Path) -> bool:
    """Whether it is an archive of arrays, as traces of experts are; a sample goes by its name alone."""
    if not file.is_file():
        return False
    with file.open("rb") as raw:
        return raw.read(2) == b"PK"


def _tables(data: Data) -> "Sequence[RenderableType]":
    from offload.traces.render import trace_tables

    return trace_tables(data)
