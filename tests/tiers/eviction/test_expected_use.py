from collections.abc import Hashable
from random import Random

import pytest

from tests.contracts.eviction import EvictionContract, access
from tiers.block import ExpertKey
from tiers.eviction.arc import ARCPolicy
from tiers.eviction.base import EvictionPolicy
from tiers.eviction.expected_use import ExpectedUsePolicy
from tiers.eviction.lfu import LFUPolicy
from tiers.eviction.lru import LRUPolicy


class TestExpectedUsePolicy(EvictionContract):
    """Keys of no layer. It remembers four keys that left for one that is there."""

    nbytes_per_key = 900

    def make(self, capacity: int) -> ExpectedUsePolicy[Hashable]:
        return ExpectedUsePolicy(capacity)


class TestExpectedUsePolicyOfLayers(EvictionContract):
    nbytes_per_key = 900

    def make(self, capacity: int) -> ExpectedUsePolicy[Hashable]:
        return ExpectedUsePolicy(capacity, layer_of=lambda key: key % 3 if isinstance(key, int) else 0)


def test_two_layers() -> None:
    policy: ExpectedUsePolicy[Hashable] = ExpectedUsePolicy(6, layer_of=lambda key: int(str(key)[0]))
    for token in (["0a", "1a"], ["0b", "1a"], ["0a", "1b"], ["0a", "1a"]):
        for key in token:
            access(policy, key)
    # After layer 1: 0 is half a pass away, 1 a whole one. 0a was drawn three times in four, 1a too, 0b and 1b once.
    assert policy.evict(1) == ["1b"]  # 4 - 1 + 1
    assert policy.evict(1) == ["0b"]  # 4 - 1 + 1/2
    assert policy.evict(1, {"1a"}) == ["0a"]
    # What left is remembered: 0b comes back with its second use.
    policy.insert("0b")
    policy.insert("0c")
    assert policy.evict(1) == ["0c"]


@pytest.mark.parametrize("slots", [40, 52, 100, 180])
def test_experts_drawn_by_popularity(slots: int) -> None:
    """Twelve layers of 32 experts, four a token with the odds of Zipf: more hits than LRU, LFU and ARC."""
    random = Random(3)
    ranks = [random.sample(range(32), 32) for _ in range(12)]

    def hits(policy: EvictionPolicy[Hashable]) -> int:
        draw, count = Random(5), 0
        for _ in range(300):
            for layer in range(12):
                odds = [1 / (1 + rank) for rank in ranks[layer]]
                chosen = {draw.choices(range(32), odds)[0] for _ in range(4)}
                count += sum(access(policy, ExpertKey(layer, expert, "int4")) for expert in sorted(chosen))
        return count

    others: list[EvictionPolicy[Hashable]] = [LRUPolicy(slots), LFUPolicy(slots), ARCPolicy(slots)]
    assert hits(ExpectedUsePolicy(slots)) > max(hits(other) for other in others)
