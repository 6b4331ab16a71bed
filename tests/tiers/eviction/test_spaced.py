from collections.abc import Hashable

import pytest

from tests.contracts.eviction import EvictionContract, access, count_hits
from tiers.block import KVBlockKey
from tiers.eviction.spaced import SpacedPolicy

BLOCKS = 8


class TestSpacedPolicy(EvictionContract):
    """Keys of no layer."""

    def make(self, capacity: int) -> SpacedPolicy[Hashable]:
        return SpacedPolicy(capacity)


class TestSpacedPolicyOfLayers(EvictionContract):
    def make(self, capacity: int) -> SpacedPolicy[Hashable]:
        return SpacedPolicy(capacity, layer_of=lambda key: key % 3 if isinstance(key, int) else 0)


def test_three_layers() -> None:
    policy: SpacedPolicy[str] = SpacedPolicy(6, layer_of=lambda key: int(key[0]))
    for key in ("0a", "1a", "1b", "1c", "2a", "2b"):
        policy.insert(key)
    policy.touch("1b")
    # Layers 1, 2 and 0, in this order; of each what was used last.
    assert policy.evict(2, {"1c"}) == ["1b", "1a"]
    assert policy.evict(3) == ["1c", "2b", "2a"]


@pytest.mark.parametrize(("num_layers", "kept"), [(30, 5), (32, 4), (12, 6), (80, 11), (7, 3)])
def test_a_loop_keeps_whole_layers_evenly_spaced(num_layers: int, kept: int) -> None:
    """As many hits as MRU has, (C - 1) / (N - 1), but for what one layer more or less makes."""
    capacity = (kept + 1) * BLOCKS
    policy: SpacedPolicy[Hashable] = SpacedPolicy(capacity)
    loop = [KVBlockKey(0, layer, block) for layer in range(num_layers) for block in range(BLOCKS)]
    count_hits(policy, loop * 3)
    hits = dict.fromkeys(range(num_layers), 0)
    for key in loop:
        hits[key.layer] += access(policy, key)
    assert sum(hits.values()) >= kept * BLOCKS
    whole = [layer for layer, count in hits.items() if count == BLOCKS]
    assert len(whole) >= kept
    gaps = [b - a for a, b in zip(whole, [*whole[1:], whole[0] + num_layers], strict=True)]
    assert max(gaps) <= 2.5 * num_layers / len(whole)
