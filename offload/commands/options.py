"""Options that several commands share."""

import inspect
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import wraps
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final

import typer

from offload.config import RunConfig, load_config
from offload.sizes import parse_count, parse_size
from tiers.errors import InvalidOptionError

Model = Annotated[
    str,
    typer.Argument(help="A Hugging Face directory, a .gguf file, a packed store, or smollm2-135m.", metavar="MODEL"),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda or cuda:N.", metavar="DEVICE")]
Ray = Annotated[
    str | None,
    typer.Option(help="Run on a Ray cluster: auto, local, or HOST:PORT of one with this machine.", metavar="ADDRESS"),
]
NvmeDir = Annotated[str | None, typer.Option(help="Directory, on a fast drive, of the nvme tier.", metavar="DIR")]
_DEFAULTS: Final = MappingProxyType({field.name: field.default for field in fields(RunConfig)})


def _setting(option: str, metavar: str, meaning: str) -> object:
    # The default is None, which leaves it to a file or the environment; what then holds is told here.
    default = _DEFAULTS[option.removeprefix("--").replace("-", "_")]
    told = "" if default in (None, ()) else f"  [default: {default}]"
    # Where the placeholder is the name itself, some versions of typer take it for the name, unless that is given.
    return Annotated[str | None, typer.Option(option, help=meaning + told, metavar=metavar)]


_SETTINGS: Final[Mapping[str, object]] = MappingProxyType(
    {
        "device": Device,
        "device_memory": _setting("--device-memory", "SIZE", "Most bytes to use on the device; else what is free."),
        "host_memory": _setting("--host-memory", "SIZE", "Most bytes of RAM beside a GPU; else half of what is free."),
        "nvme_dir": NvmeDir,
        "nvme_memory": _setting("--nvme-memory", "SIZE", "Most bytes to use on that drive."),
        "csd": _setting("--csd", "N", "Emulated computational drives that keep the KV cache and attend to it."),
        "attention": _setting(
            "--attention", "HOW", "auto, in-storage or, at a loss, in-storage-sparse or -sparf: all need --csd."
        ),
        "compression": _setting("--compression", "SHARE", "Of the pages that sparse attention reads, such as 1/8."),
        "dense_layers": _setting("--dense-layers", "LAYERS", "Those that sparse attention reads in full, such as 0,1."),
        "write_back": _setting(
            "--write-back", "TOKENS", "The host keeps the newest and writes so many at a time, such as 16; 0 is none."
        ),
        "x_cache": _setting(
            "--x-cache",
            "SHARE",
            "Of these writes, the share that stores what keys and values are made of.",
        ),
        "dtype": _setting("--dtype", "DTYPE", "auto, float32, bfloat16 or float16."),
        "experts": _setting("--experts", "PRECISION", "auto, or what experts must be kept in, such as int4."),
        "policy": _setting("--policy", "NAME", "Which expert has to leave the device: a name or my_module:MyPolicy."),
        "kv_policy": _setting("--kv-policy", "NAME", "Which KV block has to leave a tier, likewise."),
        "predictor": _setting(
            "--predictor", "NAME", "Who says which experts come next: a name, a file or my_module:MyPredictor."
        ),
        "miss_precision": _setting(
            "--miss-precision",
            "NAME",
            "high; or, at a loss, mixed: the lower of a store's two precisions for missing experts that add little.",
        ),
        "batch": _setting("--batch", "N", "Sequences side by side."),
        "cuda_graphs": Annotated[
            bool | None,
            typer.Option(
                "--cuda-graphs/--no-cuda-graphs", help="The GPU replays decode steps where all they need is there."
            ),
        ],
    }
)
"""The fields of RunConfig as options."""

_CONFIG_FILE: Final = Annotated[
    Path | None, typer.Option("--config", help="TOML or YAML file with these settings.", metavar="FILE")
]


def takes_settings(command: Callable[..., None]) -> Callable[..., None]:
    """A decorator: the command line offers every setting of a run, and a file of them, where ``settings`` stands.

    So a command declares ``settings: RunConfig`` and none of its options. What is wrong with one is InvalidOptionError.
    """
    given = inspect.signature(command)
    names = [*_SETTINGS, "config"]
    offered = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in (*_SETTINGS.items(), ("config", _CONFIG_FILE))
    ]
    parameters: list[inspect.Parameter] = []
    for parameter in given.parameters.values():
        parameters.extend(offered if parameter.name == "settings" else [parameter])

    @wraps(command)
    def with_settings(*words: Any, **values: Any) -> None:
        *explicit, file = [values.pop(name) for name in names]
        settings = load_config(dict(zip(_SETTINGS, explicit, strict=True)), file=file, as_options=True)
        command(*words, settings=settings, **values)

    with_settings.__signature__ = given.replace(parameters=parameters)  # type: ignore[attr-defined]  # as inspect reads it
    with_settings.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_settings


def read_count(option: str, text: str, *, least: int = 1) -> int:
    """The count from ``least`` up that was given for an option; InvalidOptionError names it."""
    try:
        return parse_count(text, least=least)
    except InvalidOptionError as error:
        raise InvalidOptionError(f"{option}: {error}") from None


def read_size(option: str, text: str) -> int:
    """The bytes that were given for an option; InvalidOptionError names it."""
    try:
        return parse_size(text)
    except InvalidOptionError as error:
        raise InvalidOptionError(f"{option}: {error}") from None


def read_seconds(option: str, text: str) -> float:
    """The seconds above 0 that were given for an option; InvalidOptionError names it."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InvalidOptionError(f"{option}: {text!r} is no number of seconds; write one above 0")
    return seconds


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
    try:
        is_there = stat.S_ISDIR(path.parent.stat().st_mode)
        if is_there and path.is_dir():
            raise InvalidOptionError(f"{option}: {path} is a directory; name a file")
    except (FileNotFoundError, NotADirectoryError):
        is_there = False
    except OSError as error:
        raise InvalidOptionError(f"{option}: {path}: {error.strerror or error}; name a file elsewhere") from None
    if not is_there:
        raise InvalidOptionError(f"{option}: {path.parent} does not exist; name a file in a directory that does")
    # A device such as /dev/null is written in place, anything else replaced: that needs its directory.
    target = path if path.exists() and not path.is_file() else path.parent
    if not os.access(target, os.W_OK):
        raise InvalidOptionError(f"{option}: {target} cannot be written; name a file in a directory that can")


def check_ray(address: str) -> None:
    """InvalidOptionError unless ``--ray`` may be an address; whether anybody answers is seen when it is used."""
    from offload.simulation.runners.ray_address import check_ray_address

    check_ray_address("--ray", address)


def check_trace(path: Path, *, samples: Sequence[str] = ()) -> None:
    """InvalidOptionError unless there is a file; what is in it is seen when it is read. ``samples`` are other names."""
    if not path.is_file():
        others = f", samples of requests are {', '.join(samples)}" if samples else ""
        raise InvalidOptionError(f"{path}: no such trace; 'offload trace record' writes one{others}")
