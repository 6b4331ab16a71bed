from collections.abc import Hashable

from tests.contracts.eviction import EvictionContract
from tiers.block import KVBlockKey
from tiers.eviction.prefix_depth import PrefixDepthPolicy


class TestPrefixDepthPolicy(EvictionContract):
    """Keys without a depth: LRU."""

    def make(self, capacity: int) -> PrefixDepthPolicy[Hashable]:
        return PrefixDepthPolicy(capacity)


class TestPrefixDepthPolicyOfPrefixes(EvictionContract):
    """Keys that are taken for prefixes of three blocks."""

    def make(self, capacity: int) -> PrefixDepthPolicy[Hashable]:
        return PrefixDepthPolicy(capacity, lambda key: key % 3 if isinstance(key, int) else 0)


def prefix(name: int, *depths: int) -> list[KVBlockKey]:
    return [KVBlockKey(name, 0, depth) for depth in depths]


def test_the_end_of_the_oldest_prefix_goes_first() -> None:
    policy: PrefixDepthPolicy[KVBlockKey] = PrefixDepthPolicy(6)
    one, two = prefix(1, 0, 1, 2), prefix(2, 0, 1, 2)
    for key in one + two:
        policy.insert(key)
    assert policy.evict(2) == [one[2], one[1]]
    # A request that shares the first block of the older prefix: what follows is its own.
    other = prefix(3, 1, 2)
    policy.touch(one[0])
    for key in other:
        policy.insert(key)
    assert policy.evict(1, {two[2]}) == [two[1]]
    assert policy.evict(5) == [two[2], two[0], other[1], other[0], one[0]]


def test_the_block_before_a_prefix_may_leave_while_it_is_used() -> None:
    policy: PrefixDepthPolicy[KVBlockKey] = PrefixDepthPolicy(4)
    old, new = prefix(1, 0, 1), prefix(2, 0, 1)
    for key in old:
        policy.insert(key)
    policy.insert(new[0])
    # The first block of the old prefix, which was used last before the new one began.
    policy.remove(old[0])
    policy.insert(new[1])
    assert policy.evict(3) == [old[1], new[1], new[0]]
