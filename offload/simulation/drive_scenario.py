"""A scenario with drives that attend to the KV cache themselves, beside the same cache on tiers that only hold it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from offload.simulation.drive_setup import SETTINGS, CsdSetup, csd_setup
from offload.simulation.values import check_keys, mapping, near, number, read_tiers, suggest, text
from simulators.model_costs import ModelShape, read_model_shape
from simulators.published import find_published
from simulators.serving.base import Host, Workload
from simulators.serving.in_storage import InStorage
from simulators.serving.moved import ENGINE_W
from simulators.serving.selection import ClusteredSelection, WholeGroups
from simulators.serving.software import SoftwareCosts
from simulators.serving.tiered import Tiered
from tiers.errors import InvalidOptionError, UsageError

TIERED = "tiers"
"""The row of the cache that moves to the GPU."""
ENGINES = ("dense", "sparf", "group_mass", "group_bounds")
KEYS = ("hardware", "model", "workload", "batch", "tiers", "drive")
_OWN = ("profile", "engine", "compression", "drives", "engine_w")
_SOFTWARE = ("layer_overhead_s", "submit_s")
"""Of SoftwareCosts, what drives ask for; the others are of systems that no row is of."""
_OF_OTHERS = {one.name for one in fields(SoftwareCosts)}.difference(_SOFTWARE)
DRIVE_KEYS = (*_OWN, *(name for name in SETTINGS if name not in _OF_OTHERS))
_NO_SOFTWARE = SoftwareCosts(layer_overhead_s=0.0)
"""Rows are limits of hardware, as those of the tiers are; ``layer_overhead_s: 0.03`` is InstAttention's software."""


@dataclass(frozen=True, slots=True)
class DriveCase:
    """One row to come: a system, the workload, the machine, and how the row begins."""

    head: Mapping[str, Any]
    system: InStorage | Tiered
    workload: Workload
    host: Host
    engine_w: float


def is_drive_scenario(settings: Mapping[str, object]) -> bool:
    """Whether a file is one of these."""
    return "drive" in settings


def read_cases(settings: Mapping[str, object], path: Path) -> list[DriveCase]:
    """One for the tiers, then one for each engine. InvalidOptionError names the file, the key and what is near."""
    try:
        return list(_cases(settings, path.parent))
    except UsageError as error:
        raise type(error)(f"{path}: {error}") if isinstance(error, InvalidOptionError) else error from None


def _cases(settings: Mapping[str, object], folder: Path) -> Iterator[DriveCase]:
    check_keys("", settings, KEYS)
    for key in ("hardware", "model", "workload"):
        if key not in settings:
            raise InvalidOptionError(f"'{key}' is missing; a scenario with a drive has hardware, model and workload")
    drive = mapping("drive", settings["drive"])
    check_keys("drive.", drive, DRIVE_KEYS)
    hardware, model = text("hardware", settings["hardware"]), text("model", settings["model"])
    setup = csd_setup(
        {key: value for key, value in drive.items() if key not in _OWN},
        drive=near(folder, text("drive.profile", drive.get("profile", "instattention"))),
        profile=near(folder, hardware),
        software=_NO_SOFTWARE,
    )
    shape = read_model_shape(find_published("models", near(folder, model)))
    if shape.latent:
        raise InvalidOptionError(
            f"model: '{model}' caches latents, to which no modelled drive attends; choose one with keys and values"
        )
    workload = _workload(mapping("workload", settings["workload"]), shape, settings.get("batch", 1))
    compression = number("drive.compression", drive.get("compression", 1), is_whole=False, least=0)
    drives = int(number("drive.drives", drive.get("drives", 1), is_whole=True))
    engine_w = number("drive.engine_w", drive.get("engine_w", ENGINE_W), is_whole=False, least=0)
    if shape.kv_heads % drives:
        raise InvalidOptionError(
            f"drive.drives: {shape.kv_heads} KV heads cannot be split evenly over {drives}; choose a divisor of them"
        )
    host = Host(setup.profile)
    head = {
        "hardware": hardware,
        "model": model,
        "profile": setup.drive.name,
        "batch": workload.batch,
        "drives": drives,
    }
    if "tiers" in settings:
        tiers = read_tiers(mapping("tiers", settings["tiers"]))
        own = {**head, "policy": TIERED, "engine": None, "compression": None, "tiers": tiers}
        yield DriveCase(own, Tiered(tiers, drives), workload, host, engine_w)
    for engine in _engines(drive.get("engine", "dense")):
        selection = _selection(engine, compression, setup, shape, drive)
        name, share = _described(engine, selection, shape)
        own = {**head, "policy": f"csd {name}", "engine": engine, "compression": share}
        system = InStorage(setup.drive, setup.software, drives, selection, path=setup.path)
        yield DriveCase(own, system, workload, host, engine_w)


def _described(engine: str, selection: ClusteredSelection | WholeGroups | None, shape: ModelShape) -> tuple[str, float]:
    """How a row names what is read, and the share of it: ``sparf 1/8``, or ``sparf 1/2, r 16`` of unlike shares."""
    share, more = 1.0, ""
    if isinstance(selection, WholeGroups):
        share = selection.share
    elif selection is not None:
        share = selection.token_share
        more = "" if selection.channels == _channels(share, shape) else f", r {selection.channels}"
    return (engine if share == 1 else f"{engine} {_share_text(share)}") + more, share


def _share_text(share: float) -> str:
    """``1/8`` where it is one part of so many."""
    parts = round(1 / share)
    return f"1/{parts}" if abs(parts * share - 1) < 1e-9 else f"{share:.4g}"


def _workload(given: Mapping[str, object], shape: ModelShape, batch: object) -> Workload:
    check_keys("workload.", given, ("prompt_tokens", "new_tokens"))
    prompt, new = (
        int(number(f"workload.{key}", given.get(key, 1024), is_whole=True)) for key in ("prompt_tokens", "new_tokens")
    )
    return Workload(shape, int(number("batch", batch, is_whole=True)), prompt, new)


def _engines(given: object) -> list[str]:
    names = given if isinstance(given, list) else [given]
    for name in names:
        if name not in ENGINES:
            raise InvalidOptionError(f"drive.engine: {name!r} is unknown; {suggest(str(name), ENGINES)}")
    if not names:
        raise InvalidOptionError(f"drive.engine: the list is empty; known are {', '.join(ENGINES)}")
    return list(dict.fromkeys(names))


def _selection(
    engine: str, share: float, setup: CsdSetup, shape: ModelShape, given: Mapping[str, object]
) -> ClusteredSelection | WholeGroups | None:
    """Single numbers of ``given`` go before ``share``."""
    if not 0 < share <= 1:
        raise InvalidOptionError(f"drive.compression: {share:g} is no share; write one above 0, up to 1")
    if engine == "dense":
        return None
    if engine == "sparf":
        channels = setup.selection.channels if "r" in given else _channels(share, shape)
        tokens = setup.selection.token_share if "k" in given else share
        return replace(setup.selection, channels=channels, token_share=tokens)
    groups = setup.groups if "groups" in given else replace(setup.groups, share=share)
    # Quest's: a lower and an upper bound of each group, and as many pages of V as of K.
    return replace(groups, keys_per_page=1.0, vectors=2) if engine == "group_bounds" else groups


def _channels(share: float, shape: ModelShape) -> int:
    return max(1, round(share * shape.head_dim))
