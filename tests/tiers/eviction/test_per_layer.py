from collections.abc import Hashable

from tests.contracts.eviction import EvictionContract, access, count_hits, drain
from tests.tiers.eviction.test_scored import layer
from tiers.eviction.arc import ARCPolicy
from tiers.eviction.lru import LRUPolicy
from tiers.eviction.per_layer import PerLayerLRUPolicy, PerLayerPolicy, ShallowARCPolicy


class TestPerLayerLRUPolicy(EvictionContract):
    nbytes_per_key = 400
    num_keys = 1000
    num_histories = 25

    def make(self, capacity: int) -> PerLayerLRUPolicy[Hashable]:
        return PerLayerLRUPolicy(capacity)


class TestPerLayerLRUPolicyOfLayers(EvictionContract):
    nbytes_per_key = 400
    num_keys = 1000
    num_histories = 25

    def make(self, capacity: int) -> PerLayerLRUPolicy[Hashable]:
        return PerLayerLRUPolicy(capacity, layer_of=layer)


class TestShallowARCPolicy(EvictionContract):
    """All keys are of a layer that stays whole, and go all the same where they have to."""

    nbytes_per_key = 400
    num_keys = 1000
    num_histories = 25

    def make(self, capacity: int) -> ShallowARCPolicy[Hashable]:
        return ShallowARCPolicy(capacity)


class TestARCPerLayerWithAWholeOne(EvictionContract):
    nbytes_per_key = 500
    num_keys = 1000
    num_histories = 25

    def make(self, capacity: int) -> PerLayerPolicy[Hashable]:
        return PerLayerPolicy(capacity, ARCPolicy, 1, layer)


def test_the_layer_with_the_most_gives_up_its_oldest() -> None:
    policy: PerLayerLRUPolicy[Hashable] = PerLayerLRUPolicy(5, layer)
    for key in ("0a", "0b", "0c", "1a", "1b"):
        policy.insert(key)
    assert policy.evict(1) == ["0a"]
    # Two each: the current layer, and so in turns.
    assert policy.evict(2) == ["1a", "0b"]
    # Layer 1 would be next, but its key is in use.
    assert policy.evict(1, {"1b"}) == ["0c"]


def test_a_layer_cannot_drive_out_the_others() -> None:
    """LRU over all layers would keep nothing of a loop that is longer than the cache."""
    loop = [f"{at}{expert}" for token in "abcd" for at in range(3) for expert in (token, "x")]
    alone: LRUPolicy[Hashable] = LRUPolicy(5)
    policy: PerLayerLRUPolicy[Hashable] = PerLayerLRUPolicy(6, layer)
    assert count_hits(alone, loop * 3) == 0
    assert count_hits(policy, loop * 3) == 11 * 3


def test_first_layers_stay_whole() -> None:
    policy: ShallowARCPolicy[Hashable] = ShallowARCPolicy(6, layer)
    for key in ("0a", "0b", "3a", "4a", "5a", "5b"):
        policy.insert(key)
    access(policy, "6a")
    assert all(key in policy for key in ("0a", "0b", "3a"))
    # Where nothing else is left, the deepest of them goes first.
    assert drain(policy)[-3:] == ["3a", "0a", "0b"]


def test_ghosts_are_kept_by_the_share_of_a_layer() -> None:
    policy: PerLayerPolicy[Hashable] = PerLayerPolicy(9, ARCPolicy, 1, layer)
    for key in ("0a", "0b", "0c", "1a", "2a"):
        policy.insert(key)
    assert {at: part.capacity for at, part in policy._layers.items()} == {0: 9, 1: 3, 2: 3}
