"""``offload convert``: a checkpoint into a model of another kind."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from offload.commands import options
from offload.commands.output import Data, answering, progress_bar
from offload.zoo import resolve_model
from tiers.errors import InvalidOptionError

if TYPE_CHECKING:
    from rich.console import RenderableType


def convert(
    model: Annotated[str, typer.Argument(help="A Hugging Face directory, or smollm2-135m.", metavar="MODEL")],
    out: Annotated[Path, typer.Argument(help="Directory of the model to make.", metavar="OUT")],
    *,
    to_moe: Annotated[bool, typer.Option("--to-moe", help="A dense model into a mixture of experts.")] = False,
    experts: Annotated[str, typer.Option(help="Routed experts of a layer.", metavar="N")] = "32",
    top_k: Annotated[str, typer.Option(help="Routed experts active for a token.", metavar="N")] = "8",
    shared_neurons: Annotated[
        str | None, typer.Option(help="Neurons that are always active; about a third if not given.", metavar="N")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="Text to calibrate with; that of pydoc if not given.", metavar="FILE")
    ] = None,
    calibration_tokens: Annotated[str, typer.Option(help="Tokens that choose the experts.", metavar="N")] = "16384",
    distill_tokens: Annotated[
        str, typer.Option(help="Tokens that experts are fitted to; 0 leaves them as they are.", metavar="N")
    ] = "65536",
    held_out_tokens: Annotated[str, typer.Option(help="Tokens that judge the result.", metavar="N")] = "8192",
    seed: Annotated[str, typer.Option(help="Of what is random.", metavar="N")] = "0",
    as_json: options.Json = False,
) -> None:
    """Converts a dense model to a mixture of experts (--to-moe)."""
    if not to_moe:
        raise InvalidOptionError("convert: say to what; write --to-moe for a mixture of experts")
    counts = {
        "experts": options.read_count("--experts", experts),
        "top_k": options.read_count("--top-k", top_k),
        "calibration_tokens": options.read_count("--calibration-tokens", calibration_tokens),
        "distill_tokens": options.read_count("--distill-tokens", distill_tokens, least=0),
        "held_out_tokens": options.read_count("--held-out-tokens", held_out_tokens, least=2),
        "seed": options.read_count("--seed", seed, least=0),
    }
    shared = None if shared_neurons is None else options.read_count("--shared-neurons", shared_neurons, least=0)
    with answering(as_json) as answer:
        path = resolve_model(model)
        from offload.moefication.convert import MoeOptions, convert_to_moe

        wanted = MoeOptions(**counts, shared_neurons=shared, text=text)
        with progress_bar("converting") as progress:
            result = convert_to_moe(path, out, wanted, progress=progress)
        answer.show(result.as_json(), _tables)


def _tables(data: Data) -> "Sequence[RenderableType]":
    from offload.render import convert_tables

    return convert_tables(data)
