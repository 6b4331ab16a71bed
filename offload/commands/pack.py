"""``offload pack``: a checkpoint into a packed store."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from offload.commands import options
from offload.commands.output import Data, answering, progress_bar, say
from offload.zoo import resolve_model

if TYPE_CHECKING:
    from rich.console import RenderableType

    from simulators.expert_trace import ExpertTrace


def pack(
    model: options.Model,
    out: Annotated[Path, typer.Argument(help="Directory of the packed store to make.", metavar="OUT")],
    *,
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="float32, bfloat16 or float16; else as stored.", metavar="DTYPE"),
    ] = None,
    experts: Annotated[
        str | None,
        typer.Option(
            help="Keep routed experts in fewer bits, at a loss: int8, int4-sparse, int4, int3-sparse or int2-cold; "
            "or twice, as int8+int2 or stored+int4, for --miss-precision.",
            metavar="PRECISION",
        ),
    ] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Recorded routing, which tells int2-cold what is seldom chosen.", metavar="FILE")
    ] = None,
    loss_tokens: Annotated[
        str, typer.Option(help="Tokens of text to measure the loss on, 0 for none.", metavar="N")
    ] = "512",
    as_json: options.Json = False,
) -> None:
    """Packs a checkpoint (safetensors directory or GGUF) for streaming."""
    with answering(as_json) as answer:
        path = resolve_model(model)
        tokens = options.read_count("--loss-tokens", loss_tokens, least=0)
        recorded = _load_trace(trace)
        from offload.pack import pack as pack_model

        with progress_bar("packing", in_bytes=True) as progress:
            result = pack_model(path, out, dtype=dtype, experts=experts, trace=recorded, progress=progress)
        data: dict[str, object] = {"bytes": result.bytes, "blocks": result.blocks, "seconds": result.seconds}
        data["was_there"] = result.was_there
        if experts is not None:
            data["experts"] = _measured(path, out, tokens)
        answer.show(data, _tables)


def _load_trace(path: Path | None) -> "ExpertTrace | None":
    if path is None:
        return None
    from simulators import expert_trace

    return expert_trace.ExpertTrace.load(path)


def _measured(model: Path, packed: Path, num_tokens: int) -> dict[str, object]:
    """What was lost, on a real text where the model has a tokenizer."""
    from offload.experts.loss import measure_loss

    with progress_bar("measuring the loss") as progress:
        note = measure_loss(model, packed, num_tokens, progress=progress)
    say(str(note))
    return asdict(note)


def _tables(data: Data) -> "Sequence[RenderableType]":
    from offload.render import pack_tables

    return pack_tables(data)
