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
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N.", metavar="DEVICE")]
DeviceMemory = Annotated[str | None, typer.Option(help="Most bytes to use on the device.", metavar="SIZE")]
HostMemory = Annotated[str | None, typer.Option(help="Most bytes to use of host RAM.", metavar="SIZE")]
NvmeDir = Annotated[str | None, typer.Option(help="Directory, on a fast drive, of the nvme tier.", metavar="DIR")]
NvmeMemory = Annotated[str | None, typer.Option(help="Most bytes to use on that drive.", metavar="SIZE")]
Csd = Annotated[str | None, typer.Option(help="Computational drives to use.", metavar="N")]
Dtype = Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.", metavar="DTYPE")]
Batch = Annotated[str | None, typer.Option(help="Sequences side by side.", metavar="N")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML or YAML file with these settings.")]


def read_count(option: str, text: str, *, least: int = 1) -> int:
    """The count from ``least`` up that was given for an option; InvalidOptionError names it."""
    try:
        return parse_count(text, least=least)
    except InvalidOptionError as error:
        raise InvalidOptionError(f"{option}: {error}") from None


def drive_directory(given: str | None) -> Path:
    """Where a measurement of a drive keeps its files: as given, else ``OFFLOAD_NVME_DIR``, else ``.offload`` here."""
    return load_config({"nvme_dir": given}, as_options=True).nvme_dir or Path(".offload")
