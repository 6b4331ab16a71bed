"""A scenario from a YAML or TOML file. Whatever is wrong is said with the file, the key and what would be right."""

import itertools
from collections.abc import Mapping
from dataclasses import MISSING, fields
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from offload.config_file import read_config_file
from offload.simulation.axes import axes_of, refuse_axes
from offload.simulation.values import check_keys, mapping, near, number, read_tiers, suggest, text
from prefetch.load_gate import Gate
from simulators import scenario as simulated
from simulators.host_path import HostMemory, Storage
from simulators.kv_serving import Arrivals
from simulators.kv_trace.base import KVTrace
from simulators.kv_trace.formats import open_kv_trace
from simulators.kv_trace.generate import ChatWorkload, SharedPrefixWorkload, Workload, ZipfWorkload
from simulators.model_costs import read_model_shape
from simulators.published import find_published, load_profile
from simulators.running_costs import PriceTerms
from simulators.scenario import Scenario
from tiers.errors import InvalidOptionError, UsageError

SHIPPED = Path(simulated.__file__).parent / "scenarios"
"""Scenarios that come with the package; on the command line they go by their names."""

KEYS = (
    *("hardware", "model", "workload", "tiers", "policies", "policy"),
    *("gate", "batch", "arrivals", "speed", "storage", "host_memory", "price"),
)
"""Of a scenario; docs/scenarios.md tells of each."""
_LEAST_SPEED = 1e-6
PRICE_KEYS = ("usd_per_kwh", "years", "utilisation")
_Choice = TypeVar("_Choice", bound=Enum)
WORKLOADS: dict[str, type[ZipfWorkload | SharedPrefixWorkload | ChatWorkload]] = {
    "zipf": ZipfWorkload,
    "shared_prefixes": SharedPrefixWorkload,
    "chat": ChatWorkload,
}


def load_scenario(path: Path) -> Scenario:
    """Raises InvalidOptionError or TraceError; both name the file at fault."""
    path = find_scenario(path)
    settings = read_config_file(path)
    refuse_axes(axes_of(settings, path), path)
    return read_scenario(settings, path)


def read_scenario(settings: Mapping[str, object], path: Path) -> Scenario:
    """What the file at ``path`` would say if it held ``settings``; raises as ``load_scenario`` does."""
    try:
        return _read(settings, path.parent)
    except UsageError as error:
        raise type(error)(f"{path}: {error}") if isinstance(error, InvalidOptionError) else error from None


def find_scenario(path: Path) -> Path:
    """The file, or the scenario of that name that comes with the package; InvalidOptionError if there is neither."""
    shipped = SHIPPED / f"{path.name.removesuffix('.yaml')}.yaml"
    if path.exists() or path.name != str(path):
        return path
    if shipped.is_file():
        return shipped
    names = sorted(each.stem for each in SHIPPED.glob("*.yaml"))
    raise InvalidOptionError(f"{path}: is no file, and no scenario that ships; {suggest(shipped.stem, names)}")


def _read(settings: Mapping[str, object], folder: Path) -> Scenario:
    check_keys("", settings, KEYS)
    for key in ("hardware", "model", "workload", "tiers"):
        if key not in settings:
            raise InvalidOptionError(
                f"'{key}' is missing; a scenario has hardware, model, workload, tiers and policies"
            )
    return Scenario(
        trace=_read_workload(mapping("workload", settings["workload"]), folder),
        profile=load_profile(near(folder, text("hardware", settings["hardware"]))),
        shape=read_model_shape(find_published("models", near(folder, text("model", settings["model"])))),
        tiers=read_tiers(mapping("tiers", settings["tiers"])),
        policies=read_policies(settings),
        gate=_read_choice("gate", settings.get("gate", Gate.LOAD.value), Gate),
        batch=int(number("batch", settings.get("batch", 1), is_whole=True)),
        arrivals=_read_choice("arrivals", settings.get("arrivals", Arrivals.CLOSED.value), Arrivals),
        speed=number("speed", settings.get("speed", 1.0), is_whole=False, least=_LEAST_SPEED),
        storage=_read_choice("storage", settings["storage"], Storage) if "storage" in settings else None,
        host_memory=_read_choice("host_memory", settings["host_memory"], HostMemory)
        if "host_memory" in settings
        else None,
        price=read_price(settings.get("price", {})),
    )


def _read_workload(given: Mapping[str, object], folder: Path) -> KVTrace:
    if "trace" in given:
        check_keys("workload.", given, ("trace", "requests"))
        trace = open_kv_trace(Path(near(folder, text("workload.trace", given["trace"]))))
        if "requests" not in given:
            return trace
        most = int(number("workload.requests", given["requests"], is_whole=True))
        return KVTrace(trace.format, trace.block_tokens, itertools.islice(trace.requests, most))
    kind = text("workload.kind", given.get("kind", "nothing"))
    if kind not in WORKLOADS:
        raise InvalidOptionError(f"workload.kind: '{kind}' is unknown; {suggest(kind, WORKLOADS)}, or give a trace")
    make = WORKLOADS[kind]
    check_keys("workload.", given, ("kind", *(field.name for field in fields(make))))
    return make(**{key: _workload_number(make, key, value) for key, value in given.items() if key != "kind"}).trace()


def _workload_number(make: type[Workload], key: str, value: object) -> Any:
    default = next(field.default for field in fields(make) if field.name == key)
    assert default is not MISSING
    found = number(f"workload.{key}", value, is_whole=isinstance(default, int), least=0)
    return int(found) if isinstance(default, int) else found


def read_policies(settings: Mapping[str, object]) -> list[str]:
    """Names, each once; whether there are such policies is for whoever makes them."""
    value = settings.get("policies", settings.get("policy", ["lru"]))
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) for name in names):
        raise InvalidOptionError(f"policies: {value!r} is no list of names; write [lru, arc]")
    return list(dict.fromkeys(names))


def _read_choice(key: str, value: object, kind: type[_Choice]) -> _Choice:
    names = [one.value for one in kind]
    if value not in names:
        raise InvalidOptionError(f"{key}: {value!r} is unknown; {suggest(str(value), names)}")
    return kind(value)


def read_price(value: object) -> PriceTerms:
    """Of the key ``price``; InvalidOptionError for a number that cannot be."""
    given = mapping("price", value)
    check_keys("price.", given, PRICE_KEYS)
    terms = {key: number(f"price.{key}", one, is_whole=False, least=0) for key, one in given.items()}
    if terms.get("years") == 0:
        raise InvalidOptionError("price.years: 0 is too little; write a number above 0")
    if not 0 < terms.get("utilisation", 1) <= 1:
        raise InvalidOptionError(f"price.utilisation: {terms['utilisation']} is no share; write one above 0, up to 1")
    return PriceTerms(**terms)
