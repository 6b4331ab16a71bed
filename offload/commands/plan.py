"""``offload plan``: what would sit where, and how fast that should be, before anything is loaded."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from offload.commands import options
from offload.commands.output import Data, answering, say
from offload.config import RunConfig
from offload.runnable import runnable_model

if TYPE_CHECKING:
    from rich.console import RenderableType

    from offload.plan import Workload


@options.takes_settings
def plan(
    model: options.Model,
    *,
    prompt_tokens: Annotated[str, typer.Option(metavar="N", help="Length of the prompt to plan for.")] = "1024",
    max_new_tokens: Annotated[str, typer.Option(metavar="N", help="Tokens to generate.")] = "128",
    settings: RunConfig,
    as_json: options.Json = False,
) -> None:
    """Shows what fits where, and the predicted speed."""
    prompt_length = options.read_count("--prompt-tokens", prompt_tokens)
    new_tokens = options.read_count("--max-new-tokens", max_new_tokens)
    with answering(as_json) as answer:
        path = runnable_model(model, notice=say)
        from offload.plan import Workload

        workload = Workload(batch=settings.batch, prompt_tokens=prompt_length, new_tokens=new_tokens)
        answer.show(_planned(settings, path, workload), _tables)


def _planned(settings: RunConfig, path: Path, workload: "Workload") -> dict[str, Any]:
    if settings.csd:
        from offload.simulation.drive_plan import plan_with_drives

        found = plan_with_drives(settings, path, workload)
        return {"placement": found.plan.placement(), **found.as_json()}
    from offload.session import plan_model

    result = plan_model(settings, path, workload)
    return {
        "placement": result.placement(),
        "predicted_tokens_per_s": result.predicted_tokens_per_s,
        "predicted_prefill_s": result.predicted_prefill_s,
        "bottleneck": result.bottleneck,
    }


def _tables(data: Data) -> "Sequence[RenderableType]":
    from offload.render import plan_tables

    return plan_tables(data)
