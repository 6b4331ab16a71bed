from collections.abc import Hashable

import pytest

from tests.contracts.eviction import EvictionContract, access, drain
from tiers.eviction.activation_ratio import ActivationRatioPolicy
from tiers.eviction.weighted import WeightedPolicy, Weights


def layer(key: object) -> int:
    """Of keys such as "1a", or of numbers in three layers."""
    return key % 3 if isinstance(key, int) else int(str(key)[0]) if isinstance(key, str) else 0


class TestWeightedPolicy(EvictionContract):
    nbytes_per_key = 600
    num_keys = 1000
    num_histories = 25

    def make(self, capacity: int) -> WeightedPolicy[Hashable]:
        return WeightedPolicy(capacity)


class TestWeightedPolicyOfLayers(EvictionContract):
    nbytes_per_key = 600
    num_keys = 1000
    num_histories = 25

    def make(self, capacity: int) -> WeightedPolicy[Hashable]:
        return WeightedPolicy(capacity, layer_of=layer)


class TestActivationRatioPolicy(EvictionContract):
    """It remembers four keys that left for one that is there."""

    nbytes_per_key = 600
    num_keys = 1000
    num_histories = 25

    def make(self, capacity: int) -> ActivationRatioPolicy[Hashable]:
        return ActivationRatioPolicy(capacity)


class TestActivationRatioPolicyOfLayers(EvictionContract):
    nbytes_per_key = 600
    num_keys = 1000
    num_histories = 25

    def make(self, capacity: int) -> ActivationRatioPolicy[Hashable]:
        return ActivationRatioPolicy(capacity, layer_of=layer)


TOKENS = (["0a", "1a"], ["0b", "1a"], ["0a", "1b"])


@pytest.mark.parametrize(
    ("weights", "order"),
    [
        (Weights(1.0, 0.0, 0.0, 0.0), ["0b", "1a", "0a", "1b"]),  # last used by the tokens 2, 2, 3, 3
        (Weights(0.0, 1.0, 0.0, 0.0), ["0b", "1b", "1a", "0a"]),  # 1, 1, 2, 2 uses
        (Weights(0.0, 0.0, 1.0, 0.0), ["1a", "1b", "0b", "0a"]),  # those of layer 1 are of low precision
        (Weights(0.0, 0.0, 0.0, 1.0), ["1a", "1b", "0b", "0a"]),  # after layer 1 comes layer 0
    ],
)
def test_each_term_of_the_weighted_priority(weights: Weights, order: list[str]) -> None:
    policy: WeightedPolicy[Hashable] = WeightedPolicy(4, layer, weights, lambda key: str(key)[0] == "0")
    for token in TOKENS:
        for key in token:
            access(policy, key)
    assert drain(policy) == order


def test_the_share_of_choices_and_the_depth() -> None:
    policy: ActivationRatioPolicy[Hashable] = ActivationRatioPolicy(4, layer)
    for token in TOKENS:
        for key in token:
            access(policy, key)
    # 1/3 of layer 1 at half weight; 2/3 at half weight; 1/3 of layer 0; 2/3 of it. eps is at half weight too.
    assert drain(policy) == ["1b", "1a", "0b", "0a"]


def test_what_left_is_remembered_and_what_was_removed_is_not() -> None:
    policy: ActivationRatioPolicy[Hashable] = ActivationRatioPolicy(2, lambda _: 0)
    for key in ("a", "a", "a", "b"):
        access(policy, key)
    assert drain(policy) == ["b", "a"]
    policy.insert("a")
    policy.remove("a")
    for key in ("a", "b"):
        policy.insert(key)
    assert drain(policy) == ["a", "b"]
