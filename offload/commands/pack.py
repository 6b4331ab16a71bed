"""``offload pack``: a checkpoint into a packed store."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from offload.commands import options
from offload.commands.output import Data, answering, progress_bar
from offload.zoo import resolve_model

if TYPE_CHECKING:
    from rich.console import RenderableType


def pack(
    model: options.Model,
    out: Annotated[Path, typer.Argument(help="Directory of the packed store to make.", metavar="OUT")],
    *,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; as stored if not given.", metavar="DTYPE")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Packs a checkpoint (safetensors directory or GGUF) for streaming."""
    with answering(as_json) as answer:
        path = resolve_model(model)
        from offload.pack import pack as pack_model

        with progress_bar("packing", in_bytes=True) as progress:
            result = pack_model(path, out, dtype=dtype, progress=progress)
        answer.show({"bytes": result.bytes, "blocks": result.blocks, "seconds": result.seconds}, _tables)


def _tables(data: Data) -> "Sequence[RenderableType]":
    from offload.render import pack_tables

    return pack_tables(data)
