"""``offload plan``: what would sit where, and how fast that should be, before anything is loaded."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from offload.commands import options
from offload.commands.output import Data, answering, say
from offload.config import RunConfig
from offload.runnable import runnable_model

if TYPE_CHECKING:
    from rich.console import RenderableType


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
        from offload.session import plan_model

        workload = Workload(batch=settings.batch, prompt_tokens=prompt_length, new_tokens=new_tokens)
        result = plan_model(settings, path, workload)
        data = {
            "placement": result.placement(),
            "predicted_tokens_per_s": result.predicted_tokens_per_s,
            "predicted_prefill_s": result.predicted_prefill_s,
            "bottleneck": result.bottleneck,
        }
        answer.show(data, _tables)


def _tables(data: Data) -> "Sequence[RenderableType]":
    from offload.render import plan_tables

    return plan_tables(data)
