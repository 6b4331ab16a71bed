"""Hardware profiles as JSON files: written whole or not at all, and read with every key checked."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from simulators.machine_costs import HostProfile, PowerProfile, PriceProfile, SharedProfile
from simulators.profile import DRIVE_LINKS, LINKS, NEAR_TO_FAR, DriveProfile, HardwareProfile, LinkProfile
from simulators.runtime_profile import RuntimeProfile, Table
from tiers.errors import InvalidOptionError
from tiers.kvikio_settings import KvikioSettings

_Numbers = TypeVar("_Numbers", DriveProfile, HostProfile, PowerProfile, PriceProfile)

_TABLES = ("products", "vector_products", "activations", "kv_moved")
"""Of a RuntimeProfile."""


def write_profile(profile: HardwareProfile, path: Path) -> None:
    """Write a profile as JSON, mode 0600, whole or not at all."""
    value = asdict(profile)
    for link in value["links"].values():
        if link["by_size"] is not None:
            link["by_size"] = _as_object(link["by_size"])
    if profile.runtime is not None:
        for name in _TABLES:
            tables = getattr(profile.runtime, name)
            value["runtime"][name] = {dtype: _as_object(table) for dtype, table in tables.items()}
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
    is_unified = _flag(keys.get("unified_memory", False), f"{path}: unified_memory")
    for name in DRIVE_LINKS if is_unified else LINKS:
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
        memory_nbytes=None
        if keys.get("memory_nbytes") is None
        else int(_rate(keys["memory_nbytes"], f"{path}: memory_nbytes")),
        flops={dtype: _rate(rate, f"{path}: flops.{dtype}") for dtype, rate in flops.items()},
        links={name: _read_link(name, link, f"{path}: links.{name}") for name, link in links.items()},
        kernels=_read_kernels(keys.get("kernels"), f"{path}: kernels"),
        kvikio=_read_kvikio(keys.get("kvikio"), f"{path}: kvikio"),
        drive=_read_numbers(DriveProfile, keys.get("drive"), f"{path}: drive"),
        memory_share=_rate(keys.get("memory_share", 1.0), f"{path}: memory_share"),
        flops_share=_rate(keys.get("flops_share", 1.0), f"{path}: flops_share"),
        runtime=_read_runtime(keys.get("runtime"), f"{path}: runtime"),
        sources={
            name: _text(text, f"{path}: sources.{name}")
            for name, text in _object(keys.get("sources", {}), f"{path}: sources").items()
        },
        unified_memory=is_unified,
        gds=None if keys.get("gds") is None else _flag(keys["gds"], f"{path}: gds"),
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


def _read_runtime(value: object, where: str) -> RuntimeProfile | None:
    if value is None:
        return None
    keys = _keys(value, RuntimeProfile, where)
    found: dict[str, Any] = {}
    for name, given in keys.items():
        if name in _TABLES:
            tables = _object(given, f"{where}.{name}")
            found[name] = {dtype: _read_table(table, f"{where}.{name}.{dtype}") for dtype, table in tables.items()}
        elif name == "cores":
            found[name] = max(1, int(_number(given, f"{where}.{name}")))
        else:
            found[name] = _number(given, f"{where}.{name}")
    return RuntimeProfile(**found)


def _as_object(table: Table) -> dict[str, float]:
    return {str(size): rate for size, rate in table}


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


def _read_kvikio(value: object, where: str) -> KvikioSettings | None:
    if value is None:
        return None
    keys = _keys(value, KvikioSettings, where)
    given: dict[str, Any] = {
        name: _flag(found, f"{where}.{name}") if name == "is_direct" else max(1, int(_number(found, f"{where}.{name}")))
        for name, found in keys.items()
    }
    return KvikioSettings(**given)


def _read_table(value: object, where: str) -> tuple[tuple[int, float], ...] | None:
    if value is None:
        return None
    table = _object(value, where)
    for size in table:
        if not (size.isascii() and size.isdigit() and int(size) > 0):
            raise InvalidOptionError(f"{where}: key '{size}' is not a number of bytes; write for example '65536'")
    return tuple(sorted((int(size), _rate(rate, f"{where}.{size}")) for size, rate in table.items()))


def _keys(
    value: object,
    kind: type[HardwareProfile | LinkProfile | SharedProfile | RuntimeProfile | KvikioSettings | _Numbers],
    where: str,
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
