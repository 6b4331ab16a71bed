"""Policies of others: a class in a module of its own, named ``my_module:MyPolicy`` wherever a policy has a name."""

import importlib
import importlib.util
import sys
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from tiers.block import ExpertKey, KVBlockKey
from tiers.errors import InvalidOptionError
from tiers.eviction.base import EvictionPolicy

_EXPERTS = [ExpertKey(layer, layer, "stored") for layer in range(4)]
_KV_BLOCKS = [KVBlockKey(0, 0, block) for block in range(4)]
_INTERFACE = ("insert", "touch", "remove", "evict", "__contains__", "__len__")


def load_policy(name: str) -> type[EvictionPolicy[Any]]:
    """The class that ``module:Class`` names. The module is one that can be imported, or a file here.

    It need not inherit from EvictionPolicy as long as it has its methods; then it is not told of forecasts. Raises
    InvalidOptionError, which says what is missing, or what it did wrong when it was tried.
    """
    module_name, _, class_name = name.partition(":")
    if not module_name or not class_name.isidentifier():
        raise InvalidOptionError(f"{name!r} names no policy; write my_module:MyPolicy")
    module = _import(module_name, name)
    policy = getattr(module, class_name, None)
    if not isinstance(policy, type):
        raise InvalidOptionError(f"'{name}': the module has no class '{class_name}'")
    missing = [method for method in _INTERFACE if not callable(getattr(policy, method, None))]
    if getattr(policy, "__abstractmethods__", None):
        missing = sorted(policy.__abstractmethods__)  # type: ignore[attr-defined]  # which ABCs have
    if missing:
        raise InvalidOptionError(f"'{name}' is no eviction policy: it has no {', '.join(missing)}")
    if not issubclass(policy, EvictionPolicy):
        policy = type(class_name, (policy, _Defaults), {})
    # It may be made for one kind of blocks alone.
    faults = [_fault(policy, keys) for keys in (_EXPERTS, _KV_BLOCKS)]
    if all(faults):
        raise InvalidOptionError(f"'{name}' is no eviction policy: {faults[0]}")
    return policy


def _fault(policy_class: type[EvictionPolicy[Any]], keys: Sequence[Hashable]) -> str:
    """What a policy does wrong that has to evict one of four keys, in one line; empty if nothing."""
    try:
        policy = policy_class(len(keys))
    except Exception as error:  # noqa: BLE001 - whatever theirs raises
        return f"{_told(error)}; it must be made with the number of slots alone"
    try:
        for key in keys:
            policy.insert(key)
        # Each in turn, since what it would choose by itself is among them.
        for protected in keys:
            victims = list(policy.evict(1, {protected}))
            if len(victims) != 1 or victims[0] not in keys:
                return f"evict(1) of {len(keys)} keys gave {len(victims)}; it must give one that was inserted"
            if victims[0] == protected:
                return "evict chose a key that is protected; it must choose another one"
            if len(policy) != len(keys) - 1 or victims[0] in policy:
                return f"evict left {len(policy)} of {len(keys)} keys; it must remove its victims, and only these"
            policy.insert(victims[0])
    except Exception as error:  # noqa: BLE001 - whatever theirs raises
        return f"{_told(error)} where it was to evict one of {len(keys)} keys"
    return ""


def _told(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


class _Defaults:
    """What a policy does about which it need not care."""

    def forecast(self, step: int, expected: object) -> None:
        """Nothing."""

    def announce(self, keys: object) -> None:
        """Nothing."""

    def insert_all(self, keys: Iterable[Any], cost: float = 1.0) -> None:
        """One after the other."""
        for key in keys:
            self.insert(key, cost)  # type: ignore[attr-defined]  # of the class beside this one

    def insert_ahead(self, key: Any, cost: float = 1.0) -> None:
        """A use."""
        self.insert(key, cost)  # type: ignore[attr-defined]  # of the class beside this one


def _import(module_name: str, name: str) -> ModuleType:
    """A module of the path, else ``module_name.py`` in the current directory, where the command line does not look."""
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        path = Path.cwd().joinpath(*module_name.split(".")).with_suffix(".py")
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}.") or not path.is_file():
            raise InvalidOptionError(f"'{name}': {error}; write the module's file into this directory") from None
    except Exception as error:
        raise InvalidOptionError(f"'{name}': the module fails: {type(error).__name__}: {error}") from error
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise InvalidOptionError(f"{path}: the module fails: {type(error).__name__}: {error}") from error
    return module
