from collections.abc import Hashable

from tests.contracts.eviction import EvictionContract, count_hits
from tiers.eviction.lirs import LIRSPolicy
from tiers.eviction.lru import LRUPolicy


class TestLIRSPolicy(EvictionContract):
    def make(self, capacity: int) -> LIRSPolicy[Hashable]:
        return LIRSPolicy(capacity)


def test_four_blocks() -> None:
    """Of four slots three are for keys of low distance; the first three to come have them."""
    policy: LIRSPolicy[str] = LIRSPolicy(4)
    for key in "ABCD":
        policy.insert(key)
    assert policy.evict(1) == ["D"]
    # D comes back while A, which was used before it, is still there: its distance is low now, and A's is not.
    policy.insert("D")
    assert policy.evict(1) == ["A"]
    policy.insert("E")
    policy.touch("B")
    # E is the one that may leave. C is the oldest of low distance, but only E's protection makes it go.
    assert policy.evict(1, {"E"}) == ["C"]
    assert policy.evict(3) == ["E", "D", "B"]


def test_a_second_use_within_the_stack_exchanges_the_kinds() -> None:
    policy: LIRSPolicy[str] = LIRSPolicy(4)
    for key in "ABCD":
        policy.insert(key)
    policy.touch("D")
    assert policy.evict(1) == ["A"]
    policy.insert("E")
    policy.touch("E")
    assert policy.evict(1) == ["B"]


def test_a_removed_key_leaves_no_ghost() -> None:
    policy: LIRSPolicy[str] = LIRSPolicy(4)
    for key in "ABCD":
        policy.insert(key)
    policy.remove("D")
    policy.insert("D")
    # As a ghost D would have pushed A out of its kind.
    assert policy.evict(1) == ["D"]


def test_a_loop_that_does_not_fit() -> None:
    """The example of the paper's introduction: LRU never hits, LIRS keeps a part of the loop."""
    loop = list(range(20)) * 20
    lru: LRUPolicy[Hashable] = LRUPolicy(15)
    lirs: LIRSPolicy[Hashable] = LIRSPolicy(15)
    assert count_hits(lru, loop) == 0
    assert count_hits(lirs, loop) >= 19 * 13
