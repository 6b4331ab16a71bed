"""The numbers of one machine, measured or published, from which speed is predicted and time is simulated."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import TypeVar

from simulators.machine_costs import HostProfile, PowerProfile, PriceProfile, SharedProfile
from tiers.errors import InvalidOptionError

NEAR_TO_FAR = ("device", "host", "nvme", "csd", "remote")
"""Tiers by distance from the arithmetic. A link towards a nearer tier reads, a link towards a farther one writes."""

LINKS = ("nvme->device", "device->nvme", "host->device", "device->host")
"""The links that every profile has."""


@dataclass(frozen=True, slots=True)
class LinkProfile:
    """One pair of tiers: how fast the farther one is read and written, and how long the link's first byte takes.

    ``by_size`` refines the link's own direction: rows ``(transfer size in bytes, bytes per second)`` by rising size.
    """

    read_bytes_per_s: float
    write_bytes_per_s: float
    latency_s: float
    by_size: tuple[tuple[int, float], ...] | None = None


@dataclass(frozen=True, slots=True)
class DriveProfile:
    """What a drive does with small requests: how long one alone takes, and how many it ends in a second at most."""

    latency_s: float
    read_iops: float
    write_iops: float


@dataclass(frozen=True, slots=True)
class HardwareProfile:
    """One machine. ``device`` is a torch device name, ``flops`` maps dtype names to FLOP/s of a large matrix product.

    ``memory_bytes_per_s`` is the rate at which the device reads weights in a matrix-vector product. ``source`` says
    where the numbers come from. A field added later needs a default: then files written before it still load.
    """

    name: str
    source: str
    device: str
    memory_bytes_per_s: float
    flops: Mapping[str, float]
    links: Mapping[str, LinkProfile]
    kernels: Mapping[str, int] | None = None
    """By the type of weights, tokens up to which the kernel made for few is the fastest; None if not measured."""
    drive: DriveProfile | None = None
    memory_share: float = 1.0
    """Of ``memory_bytes_per_s``, what can be reached: 1 where that was measured, less where it is a data sheet's."""
    flops_share: float = 1.0
    sources: Mapping[str, str] = field(default_factory=dict)
    """Where single numbers come from."""
    unified_memory: bool = False
    """Whether device and host are one memory: a drive reaches it without a bounce buffer."""
    host: HostProfile | None = None
    """None where nobody has measured it; so the next ones."""
    shared: Mapping[str, SharedProfile] = field(default_factory=dict)
    """By name, what several links compete for, besides host memory."""
    power: PowerProfile | None = None
    price: PriceProfile | None = None

    def flops_per_s(self, dtype: str) -> float:
        """FLOP/s in ``dtype``; of a dtype that was not measured, the slowest one that was."""
        return self.flops.get(dtype, min(self.flops.values()))

    def bytes_per_s(self, link: str, nbytes: int | None = None) -> float:
        """The rate in the direction in which ``link`` points, for transfers of ``nbytes`` where that was measured."""
        profile = self.links[link]
        if nbytes is not None and profile.by_size:
            smallest = profile.by_size[0][1]
            return next((rate for size, rate in reversed(profile.by_size) if size <= nbytes), smallest)
        return profile.read_bytes_per_s if _is_read(link) else profile.write_bytes_per_s


_Numbers = TypeVar("_Numbers", DriveProfile, HostProfile, PowerProfile, PriceProfile)


def _link(read: float, write: float, latency_s: float) -> LinkProfile:
    return LinkProfile(read_bytes_per_s=read, write_bytes_per_s=write, latency_s=latency_s)


DEFAULT = HardwareProfile(
    name="default",
    source="assumed, not measured: a modest desktop; 'offload doctor' measures this machine",
    device="cpu",
    memory_bytes_per_s=8e9,
    flops={"float32": 4e10, "bfloat16": 2e10, "float16": 2e10},
    links={
        "nvme->device": _link(5e8, 3e8, 2e-4),
        "device->nvme": _link(5e8, 3e8, 2e-4),
        "host->device": _link(4e9, 4e9, 2e-5),
        "device->host": _link(4e9, 4e9, 2e-5),
    },
)

DEFAULT_CUDA = HardwareProfile(
    name="default GPU",
    source="assumed, not measured: a modest GPU; 'offload doctor' measures this machine",
    device="cuda:0",
    memory_bytes_per_s=3e11,
    flops={"float32": 1e13, "bfloat16": 3e13, "float16": 3e13},
    links={
        **DEFAULT.links,
        "host->device": _link(1.2e10, 1.2e10, 2e-5),
        "device->host": _link(1.2e10, 1.2e10, 2e-5),
    },
)


def write_profile(profile: HardwareProfile, path: Path) -> None:
    """Write a profile as JSON, mode 0600, whole or not at all."""
    value = asdict(profile)
    for link in value["links"].values():
        if link["by_size"] is not None:
            link["by_size"] = {str(size): rate for size, rate in link["by_size"]}
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.touch(mode=0o600)
        draft.write_text(json.dumps(value, indent=2), encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_profile(path: Path) -> HardwareProfile:
    """Read what ``write_profile`` wrote; raises InvalidOptionError, which names the file and the key at fault."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"{path}: not a readable hardware profile ({error}); run 'offload doctor' again"
        raise InvalidOptionError(message) from None
    keys = _keys(value, HardwareProfile, str(path))
    links = _object(keys["links"], f"{path}: links")
    for name in LINKS:
        if name not in links:
            raise InvalidOptionError(f"{path}: links: key '{name}' is missing; run 'offload doctor' again")
    flops = _object(keys["flops"], f"{path}: flops")
    if not flops:
        raise InvalidOptionError(f"{path}: flops: no dtype is given; name at least 'float32'")
    return HardwareProfile(
        name=_text(keys["name"], f"{path}: name"),
        source=_text(keys["source"], f"{path}: source"),
        device=_text(keys["device"], f"{path}: device"),
        memory_bytes_per_s=_rate(keys["memory_bytes_per_s"], f"{path}: memory_bytes_per_s"),
        flops={dtype: _rate(rate, f"{path}: flops.{dtype}") for dtype, rate in flops.items()},
        links={name: _read_link(name, link, f"{path}: links.{name}") for name, link in links.items()},
        kernels=_read_kernels(keys.get("kernels"), f"{path}: kernels"),
        drive=_read_numbers(DriveProfile, keys.get("drive"), f"{path}: drive"),
        memory_share=_rate(keys.get("memory_share", 1.0), f"{path}: memory_share"),
        flops_share=_rate(keys.get("flops_share", 1.0), f"{path}: flops_share"),
        sources={
            name: _text(text, f"{path}: sources.{name}")
            for name, text in _object(keys.get("sources", {}), f"{path}: sources").items()
        },
        unified_memory=_flag(keys.get("unified_memory", False), f"{path}: unified_memory"),
        host=_read_numbers(HostProfile, keys.get("host"), f"{path}: host"),
        shared={
            name: _read_shared(value, f"{path}: shared.{name}")
            for name, value in _object(keys.get("shared", {}), f"{path}: shared").items()
        },
        power=_read_numbers(PowerProfile, keys.get("power"), f"{path}: power", may_be_zero=True),
        price=_read_numbers(PriceProfile, keys.get("price"), f"{path}: price", may_be_zero=True),
    )


def _read_numbers(kind: type[_Numbers], value: object, where: str, *, may_be_zero: bool = False) -> _Numbers | None:
    """A dataclass that has nothing but numbers."""
    if value is None:
        return None
    read = _number if may_be_zero else _rate
    return kind(**{name: read(number, f"{where}.{name}") for name, number in _keys(value, kind, where).items()})


def _read_shared(value: object, where: str) -> SharedProfile:
    keys = _keys(value, SharedProfile, where)
    links = _object(keys.get("links", {}), f"{where}.links")
    for name in links:
        _check_link(name, f"{where}.links.{name}")
    return SharedProfile(
        bytes_per_s=_rate(keys["bytes_per_s"], f"{where}.bytes_per_s"),
        links={name: _number(share, f"{where}.links.{name}") for name, share in links.items()},
    )


def _check_link(name: str, where: str) -> None:
    source, arrow, destination = name.partition("->")
    if not arrow or source == destination or not {source, destination} <= set(NEAR_TO_FAR):
        raise InvalidOptionError(f"{where}: not a link; write TIER->TIER with tiers of {', '.join(NEAR_TO_FAR)}")


def _read_link(name: str, value: object, where: str) -> LinkProfile:
    _check_link(name, where)
    keys = _keys(value, LinkProfile, where)
    return LinkProfile(
        read_bytes_per_s=_rate(keys["read_bytes_per_s"], f"{where}.read_bytes_per_s"),
        write_bytes_per_s=_rate(keys["write_bytes_per_s"], f"{where}.write_bytes_per_s"),
        latency_s=_number(keys["latency_s"], f"{where}.latency_s"),
        by_size=_read_table(keys.get("by_size"), f"{where}.by_size"),
    )


def _read_kernels(value: object, where: str) -> Mapping[str, int] | None:
    if value is None:
        return None
    return {name: int(_number(tokens, f"{where}.{name}")) for name, tokens in _object(value, where).items()}


def _read_table(value: object, where: str) -> tuple[tuple[int, float], ...] | None:
    if value is None:
        return None
    table = _object(value, where)
    for size in table:
        if not (size.isascii() and size.isdigit() and int(size) > 0):
            raise InvalidOptionError(f"{where}: key '{size}' is not a number of bytes; write for example '65536'")
    return tuple(sorted((int(size), _rate(rate, f"{where}.{size}")) for size, rate in table.items()))


def _keys(
    value: object, kind: type[HardwareProfile | LinkProfile | SharedProfile | _Numbers], where: str
) -> dict[str, object]:
    """The keys of an object that stands for a dataclass: all without a default, none that is not a field."""
    keys = _object(value, where)
    known = {one.name: one.default is MISSING and one.default_factory is MISSING for one in fields(kind)}
    for key in keys:
        if key not in known:
            raise InvalidOptionError(f"{where}: unknown key '{key}'; known are {', '.join(known)}")
    for key, is_required in known.items():
        if is_required and key not in keys:
            raise InvalidOptionError(f"{where}: key '{key}' is missing; run 'offload doctor' again")
    return keys


def _object(value: object, where: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise InvalidOptionError(f"{where}: {value!r} is not an object; write {{...}}")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidOptionError(f"{where}: {value!r} is not a text; write it in quotes")
    return value


def _flag(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidOptionError(f"{where}: {value!r} is neither true nor false; write one of them")
    return value


def _number(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
        raise InvalidOptionError(f"{where}: {value!r} is not a number of at least 0; run 'offload doctor' again")
    return float(value)


def _rate(value: object, where: str) -> float:
    number = _number(value, where)
    if number == 0:
        raise InvalidOptionError(f"{where}: 0 is not a rate; write a number above 0")
    return number


def _is_read(link: str) -> bool:
    source, _, destination = link.partition("->")
    return NEAR_TO_FAR.index(source) > NEAR_TO_FAR.index(destination)
