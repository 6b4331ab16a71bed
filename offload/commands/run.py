"""``offload run``: generates from a prompt within a budget."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from offload.bench.header import header
from offload.commands import interrupts, options
from offload.commands.output import Data, answering, say
from offload.commands.prompt import read_prompt, read_prompts
from offload.commands.view import make_view
from offload.config import RunConfig
from offload.experts.note import ExpertNote
from offload.numbers import parse_ids
from offload.runnable import runnable_model
from tiers.errors import InvalidOptionError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from offload.session import Status


@dataclass(frozen=True, slots=True)
class _Asked:
    """What to continue: one of these is given."""

    text: str | None = None
    ids: list[int] | None = None
    prompts: list[str] | None = None


@options.takes_settings
def run(
    model: options.Model,
    *,
    prompt: Annotated[str | None, typer.Option(help="Text to continue.", metavar="TEXT")] = None,
    prompt_file: Annotated[Path | None, typer.Option(help="File with that text; - is stdin.", metavar="FILE")] = None,
    prompt_ids: Annotated[str | None, typer.Option(help="Token ids to continue, 1,2,3.", metavar="IDS")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="File with a prompt on each line, answered --batch at a time.", metavar="FILE")
    ] = None,
    prompt_tokens: Annotated[str | None, typer.Option(help="Use its first N tokens only.", metavar="N")] = None,
    max_new_tokens: Annotated[str, typer.Option(help="Tokens to generate.", metavar="N")] = "128",
    trace_out: Annotated[Path | None, typer.Option(help="Write a timeline of the run here.", metavar="FILE")] = None,
    settings: RunConfig,
    as_json: options.Json = False,
) -> None:
    """Generates text; shows what is in which tier, then what it cost."""
    asked = _read_asked(prompt, prompt_file, prompt_ids, prompts)
    limit = None if prompt_tokens is None else options.read_count("--prompt-tokens", prompt_tokens)
    new_tokens = options.read_count("--max-new-tokens", max_new_tokens)
    if trace_out is not None:
        options.check_out("--trace-out", trace_out)
    with answering(as_json) as answer:
        path = runnable_model(model, notice=say)
        from offload.session import run as run_model

        note = ExpertNote.load(path)
        if note:
            say(note.told(with_low=settings.miss_precision != "high"))

        with make_view(as_json) as view:

            def on_status(status: "Status") -> None:
                interrupts.check()
                view.on_status(status)

            result = run_model(
                settings,
                path,
                prompt=asked.text,
                prompt_ids=asked.ids,
                prompts=asked.prompts,
                prompt_tokens=limit,
                max_new_tokens=new_tokens,
                on_text=None if as_json else view.on_text,
                on_status=on_status,
                on_plan=view.on_plan,
                progress=view.on_load,
                trace_out=trace_out,
            )
            if asked.prompts is not None and not as_json:
                view.on_text("\n\n".join(f"{i}. {text.strip()}" for i, text in enumerate(result.text, 1)))
        for line in result.notes:
            say(line)
        data = {**result.as_json(), **header(seed=None, directory=settings.nvme_dir)}
        if note:
            data["experts"] = asdict(note)
        answer.show(data, _tables)


def _read_asked(text: str | None, file: Path | None, ids: str | None, prompts: Path | None) -> _Asked:
    """InvalidOptionError where more than one is given, or what is given cannot be read."""
    token_ids = None if ids is None else parse_ids("--prompt-ids", ids)
    is_single = text is not None or file is not None
    if prompts is not None and (is_single or ids is not None):
        raise InvalidOptionError("--prompts: a single prompt is given too; give one of them")
    if token_ids is not None and is_single:
        raise InvalidOptionError("--prompt-ids: a text is given too; give one of them")
    if prompts is not None:
        return _Asked(prompts=read_prompts(prompts))
    return _Asked(read_prompt(text, file)) if token_ids is None else _Asked(ids=token_ids)


def _tables(data: Data) -> "Sequence[RenderableType]":
    from offload.render import run_tables

    return run_tables(data)
