"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from offload.config import load_config
from offload.sizes import parse_count
from tiers.errors import InvalidOptionError

Model = Annotated[
    str,
    typer.Argument(help="A Hugging Face directory, a .gguf file, a packed store, or smollm2-135m.", metavar="MODEL"),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
# Where the placeholder is the name itself, some versions of typer take it for the name: so both are given.
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda or cuda:N.", metavar="DEVICE")]
DeviceMemory = Annotated[str | None, typer.Option(help="Most bytes to use on the device.", metavar="SIZE")]
HostMemory = Annotated[str | None, typer.Option(help="Most bytes to use of host RAM.", metavar="SIZE")]
NvmeDir = Annotated[str | None, typer.Option(help="Directory, on a fast drive, of the nvme tier.", metavar="DIR")]
NvmeMemory = Annotated[str | None, typer.Option(help="Most bytes to use on that drive.", metavar="SIZE")]
Csd = Annotated[str | None, typer.Option(help="Computational drives to use.", metavar="N")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.", metavar="DTYPE")]
Experts = Annotated[
    str | None,
    typer.Option(help="auto, or what experts must be kept in, such as int4.", metavar="PRECISION"),
]
Policy = Annotated[str | None, typer.Option(help="Which expert has to leave the device.", metavar="NAME")]
Predictor = Annotated[
    str | None,
    typer.Option(
        "--predictor", help="Who says which experts come next: a name, or a trained one's file.", metavar="NAME"
    ),
]
Batch = Annotated[str | None, typer.Option(help="Sequences side by side.", metavar="N")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML or YAML file with these settings.")]


def read_count(option: str, text: str, *, least: int = 1) -> int:
    """The count from ``least`` up that was given for an option; InvalidOptionError names it."""
    try:
        return parse_count(text, least=least)
    except InvalidOptionError as error:
        raise InvalidOptionError(f"{option}: {error}") from None


def read_share(option: str, text: str) -> float:
    """The share above 0 and up to 1 that was given for an option, as 0.5 or 50%; InvalidOptionError names it."""
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise InvalidOptionError(f"{option}: {text!r} is no share; write for example 50%")
    return share


def drive_directory(given: str | None) -> Path:
    """Where a measurement of a drive keeps its files: as given, else ``OFFLOAD_NVME_DIR``, else ``.offload`` here."""
    return load_config({"nvme_dir": given}, as_options=True).nvme_dir or Path(".offload")


def device_name(given: str | None) -> str:
    """The device to measure on: as given, else ``OFFLOAD_DEVICE``, else the processor."""
    return load_config({"device": given}, as_options=True).device


def check_out(option: str, path: Path) -> None:
    """Before the work, so that nobody waits for a file that cannot be written; InvalidOptionError names the option."""
    if path.is_dir():
        raise InvalidOptionError(f"{option}: {path} is a directory; name a file")
    if not path.parent.is_dir():
        raise InvalidOptionError(f"{option}: {path.parent} does not exist; name a file in a directory that does")


def check_trace(path: Path) -> None:
    """InvalidOptionError unless there is a file; what is in it is seen when it is read."""
    if not path.is_file():
        raise InvalidOptionError(f"{path}: no such trace; 'offload trace record' writes one")
