"""``offload plan``: what would sit where, and how fast that should be, before anything is loaded."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from offload.commands import options
from offload.commands.output import Data, answering, say
from offload.config import load_config
from offload.runnable import runnable_model

if TYPE_CHECKING:
    from rich.console import RenderableType


def plan(
    model: options.Model,
    *,
    prompt_tokens: Annotated[str, typer.Option(metavar="N", help="Length of the prompt to plan for.")] = "1024",
    max_new_tokens: Annotated[str, typer.Option(metavar="N", help="Tokens to generate.")] = "128",
    device: options.Device = None,
    device_memory: options.DeviceMemory = None,
    host_memory: options.HostMemory = None,
    nvme_dir: options.NvmeDir = None,
    nvme_memory: options.NvmeMemory = None,
    csd: options.Csd = None,
    dtype: options.Dtype = None,
    experts: options.Experts = None,
    batch: options.Batch = None,
    config: options.ConfigFile = None,
    as_json: options.Json = False,
) -> None:
    """Shows what fits where, and the predicted speed."""
    explicit = {
        "device": device,
        "device_memory": device_memory,
        "host_memory": host_memory,
        "nvme_dir": nvme_dir,
        "nvme_memory": nvme_memory,
        "csd": csd,
        "dtype": dtype,
        "experts": experts,
        "batch": batch,
    }
    settings = load_config(explicit, file=config, as_options=True)
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
