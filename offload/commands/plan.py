"""``offload plan``: what would sit where, and how fast that should be, before anything is loaded."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from offload.commands import options
from offload.commands.output import Data, answering, say
from offload.config import RunConfig
from offload.runnable import runnable_model
from tiers.errors import InvalidOptionError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from simulators.profile import HardwareProfile


@options.takes_settings
def plan(
    model: options.Model,
    *,
    prompt_tokens: Annotated[str, typer.Option(metavar="N", help="Length of the prompt to plan for.")] = "1024",
    max_new_tokens: Annotated[str, typer.Option(metavar="N", help="Tokens to generate.")] = "128",
    profile: Annotated[
        str | None,
        typer.Option(help="Plan for another machine: a published profile, or a file of one.", metavar="NAME"),
    ] = None,
    settings: RunConfig,
    as_json: options.Json = False,
) -> None:
    """Shows what fits where, and the predicted speed."""
    prompt_length = options.read_count("--prompt-tokens", prompt_tokens)
    new_tokens = options.read_count("--max-new-tokens", max_new_tokens)
    elsewhere = None if profile is None else _profile(profile)
    with answering(as_json) as answer:
        path = runnable_model(model, notice=say)
        from offload.plan import Workload
        from offload.session import plan_model

        workload = Workload(batch=settings.batch, prompt_tokens=prompt_length, new_tokens=new_tokens)
        result = plan_model(settings, path, workload, elsewhere=elsewhere)
        data = {
            "profile": None if elsewhere is None else elsewhere.name,
            "placement": result.placement(),
            "predicted_tokens_per_s": result.predicted_tokens_per_s,
            "predicted_prefill_s": result.predicted_prefill_s,
            "bottleneck": result.bottleneck,
        }
        answer.show(data, _tables)


def _profile(name: str) -> "HardwareProfile":
    from simulators.published import load_profile

    try:
        return load_profile(name)
    except InvalidOptionError as error:
        raise InvalidOptionError(f"--profile: {error}") from None


def _tables(data: Data) -> "Sequence[RenderableType]":
    from offload.render import plan_tables

    return plan_tables(data)
