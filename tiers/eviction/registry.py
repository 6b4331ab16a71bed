"""Policies by the names that configurations use. A new policy is one file, one test class and one line here."""

import difflib
from types import MappingProxyType
from typing import Any

from tiers.block import BlockKey
from tiers.errors import InvalidOptionError
from tiers.eviction.activation_ratio import ActivationRatioPolicy
from tiers.eviction.arc import ARCPolicy
from tiers.eviction.base import EvictionPolicy, K
from tiers.eviction.batch_plan import BatchPlanPolicy
from tiers.eviction.cost_aware import CostAwarePolicy
from tiers.eviction.expected_use import ExpectedUsePolicy
from tiers.eviction.fifo import FIFOPolicy
from tiers.eviction.lfu import LFUPolicy
from tiers.eviction.lirs import LIRSPolicy
from tiers.eviction.lru import LRUPolicy
from tiers.eviction.mru import MRUPolicy
from tiers.eviction.next_use import NextUsePolicy
from tiers.eviction.per_layer import PerLayerLRUPolicy, ShallowARCPolicy
from tiers.eviction.plec import PLECPolicy
from tiers.eviction.prefix_depth import PrefixDepthPolicy
from tiers.eviction.s3fifo import S3FIFOPolicy
from tiers.eviction.sieve import SievePolicy
from tiers.eviction.spaced import SpacedPolicy
from tiers.eviction.third_party import load_policy
from tiers.eviction.two_queue import TwoQueuePolicy
from tiers.eviction.w_tinylfu import WTinyLFUPolicy
from tiers.eviction.weighted import WeightedPolicy

POLICIES: MappingProxyType[str, type[EvictionPolicy[Any]]] = MappingProxyType(
    {
        "activation_ratio": ActivationRatioPolicy,
        "arc": ARCPolicy,
        "batch_plan": BatchPlanPolicy,
        "cost_aware": CostAwarePolicy,
        "expected_use": ExpectedUsePolicy,
        "fifo": FIFOPolicy,
        "gdsf": CostAwarePolicy,  # which it is where all blocks have the same size
        "lfu": LFUPolicy,
        "lirs": LIRSPolicy,
        "lru": LRUPolicy,
        "mru": MRUPolicy,
        "next_use": NextUsePolicy,
        "per_layer_lru": PerLayerLRUPolicy,
        "plec": PLECPolicy,
        "prefix_depth": PrefixDepthPolicy,
        "s3fifo": S3FIFOPolicy,
        "shallow_arc": ShallowARCPolicy,
        "sieve": SievePolicy,
        "spaced": SpacedPolicy,
        "two_queue": TwoQueuePolicy,
        "w_tinylfu": WTinyLFUPolicy,
        "weighted": WeightedPolicy,
    }
)


def find_policy(name: str, keys: type[BlockKey] | None = None) -> type[EvictionPolicy[Any]]:
    """The class of that name, or the one that ``my_module:MyPolicy`` names; InvalidOptionError if there is none.

    Somebody else's is tried with the kind of ``keys`` that it will see, see ``load_policy``.
    """
    if ":" in name:
        return load_policy(name, keys)
    policy = POLICIES.get(name)
    if policy is None:
        near = difflib.get_close_matches(name, POLICIES, 1)
        known = f"did you mean '{near[0]}'? Others are" if near else "choose one of"
        raise InvalidOptionError(
            f"eviction policy '{name}' is unknown; {known} {', '.join(POLICIES)}, or write my_module:MyPolicy"
        )
    return policy


def make_policy(name: str, capacity: int) -> EvictionPolicy[K]:
    """A new policy for a tier of ``capacity`` slots; see ``find_policy``."""
    return find_policy(name)(capacity)
