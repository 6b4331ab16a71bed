"""``offload plan``: what would sit where, and how fast that should be, before anything is loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offload.commands import options
from offload.commands.output import Data, answering, say
from offload.config import RunConfig
from offload.runnable import runnable_model
from tiers.errors import InvalidOptionError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from offload.plan import Workload
    from simulators.expert_trace import ExpertTrace
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
    trace: Annotated[
        Path | None,
        typer.Option(help="Expert trace of the model, to tell which experts its tokens reuse.", metavar="FILE"),
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

        workload = Workload(batch=settings.batch, prompt_tokens=prompt_length, new_tokens=new_tokens)
        answer.show(_planned(settings, path, workload, elsewhere, _trace(trace)), _tables)


def _planned(
    settings: RunConfig,
    path: Path,
    workload: "Workload",
    elsewhere: "HardwareProfile | None",
    trace: "ExpertTrace | None",
) -> dict[str, Any]:
    if settings.csd:
        if elsewhere is not None:
            raise InvalidOptionError(
                f"--profile {elsewhere.name}: emulated drives are tried on this machine; leave --csd or the profile out"
            )
        from offload.simulation.drive_plan import plan_with_drives

        found = plan_with_drives(settings, path, workload, trace=trace)
        return {
            "profile": None,
            "placement": found.plan.placement(),
            "experts": found.plan.expectation,
            **found.as_json(),
        }
    from offload.session import plan_model

    result = plan_model(settings, path, workload, elsewhere=elsewhere, trace=trace)
    return {
        "profile": None if elsewhere is None else elsewhere.name,
        "placement": result.placement(),
        "predicted_tokens_per_s": result.predicted_tokens_per_s,
        "predicted_prefill_s": result.predicted_prefill_s,
        "bottleneck": result.bottleneck,
        "experts": result.expectation,
    }


def _profile(name: str) -> "HardwareProfile":
    from simulators.published import load_profile

    try:
        return load_profile(name)
    except InvalidOptionError as error:
        raise InvalidOptionError(f"--profile: {error}") from None


def _trace(path: Path | None) -> "ExpertTrace | None":
    if path is None:
        return None
    from simulators.expert_trace import ExpertTrace

    return ExpertTrace.load(path)


def _tables(data: Data) -> "Sequence[RenderableType]":
    from offload.render import plan_tables

    return plan_tables(data)
