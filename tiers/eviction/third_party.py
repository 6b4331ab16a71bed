"""Policies of others: a class in a module of its own, named ``my_module:MyPolicy`` wherever a policy has a name."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from tiers.block import PLACE_SHIFT, BlockKey, ExpertKey, KVBlockKey, PrefixBlockKey
from tiers.errors import InvalidOptionError, PolicyError
from tiers.eviction.base import EvictionPolicy
from tiers.eviction.supervised import SupervisedPlanner, SupervisedPolicy
from tiers.supervision import find_class, missing_methods

_SAMPLES: Mapping[type[BlockKey], Sequence[Hashable]] = {
    ExpertKey: [ExpertKey(layer, layer, "stored") for layer in range(8)],
    KVBlockKey: [KVBlockKey(0, 0, block) for block in range(8)],
    PrefixBlockKey: [PrefixBlockKey(block << PLACE_SHIFT | block) for block in range(8)],
}
_OURS = "tiers.eviction."
_INTERFACE = ("insert", "touch", "remove", "evict", "__contains__", "__len__")


def load_policy(name: str, keys: type[BlockKey] | None = None) -> type[EvictionPolicy[Any]]:
    """The class that ``module:Class`` names. The module is one that can be imported, or a file here.

    It need not inherit from EvictionPolicy as long as it has its methods; then it is not told of forecasts. What is not
    ours is given back as a SupervisedPolicy. Raises InvalidOptionError, which says what is missing, or what it did
    wrong when it was tried: with the kind of ``keys`` that it is for, or with each kind where that is not known, of
    which one has to do.
    """
    policy = find_class(name, "policy", "my_module:MyPolicy")
    missing = missing_methods(policy, _INTERFACE)
    if missing:
        raise InvalidOptionError(f"'{name}' is no eviction policy: it has no {', '.join(missing)}")
    if policy.__module__.startswith(_OURS):
        return policy
    kind = SupervisedPlanner if callable(getattr(policy, "plan", None)) else SupervisedPolicy
    supervised: type[EvictionPolicy[Any]] = type(policy.__name__, (kind,), {"theirs": policy, "name": name})
    # It may be made for one kind of blocks alone.
    faults = [_fault(supervised, _SAMPLES[kind]) for kind in ([keys] if keys else _SAMPLES)]
    if all(faults):
        raise InvalidOptionError(faults[0])
    return supervised


def classes_of(policy: type[EvictionPolicy[Any]]) -> tuple[type, ...]:
    """The class that decides and all that it inherits from."""
    return policy.theirs.__mro__ if issubclass(policy, SupervisedPolicy) else policy.__mro__


def _fault(policy_class: type[EvictionPolicy[Any]], keys: Sequence[Hashable]) -> str:
    """What a policy does wrong with a few keys, in one line; empty if nothing."""
    try:
        first, again = (_trial(policy_class(len(keys)), keys) for _ in range(2))
    except PolicyError as error:
        return str(error)
    if first == again:
        return ""
    return (
        f"'{policy_class.name}' is no eviction policy: evict chose other keys when the same was done again; "  # type: ignore[attr-defined]  # of SupervisedPolicy
        "it must go by what it is told, or by a random.Random(0) made in __init__"
    )


def _trial(policy: EvictionPolicy[Any], keys: Sequence[Hashable]) -> list[Hashable]:
    """Every method, and each key protected in turn, since what it would choose by itself is among them."""
    for key in keys:
        policy.insert(key)
    gone = [key for key in keys if key not in policy]
    for protected in keys:
        (victim,) = policy.evict(1, {protected})
        gone.append(victim)
        policy.insert(victim)
    policy.touch(keys[0])
    policy.remove(keys[1])
    return gone + policy.evict(2)
