from collections.abc import Hashable

from tests.contracts.eviction import EvictionContract, access, count_hits
from tiers.eviction.two_queue import TwoQueuePolicy


class TestTwoQueuePolicy(EvictionContract):
    def make(self, capacity: int) -> TwoQueuePolicy[Hashable]:
        return TwoQueuePolicy(capacity)


def test_four_blocks() -> None:
    """Of four slots the first queue is entitled to one, and two ghosts are remembered."""
    policy: TwoQueuePolicy[str] = TwoQueuePolicy(4)
    for key in "ABCD":
        policy.insert(key)
    policy.touch("A")
    # A use in the first queue does not help.
    assert policy.evict(2) == ["A", "B"]
    # Both are ghosts: they come back to the main queue.
    policy.insert("B")
    policy.insert("A")
    # First: C D, one too many. Main: B A.
    assert policy.evict(1) == ["C"]
    policy.touch("B")
    # First: D, within its right. Main: A B, by last use.
    assert policy.evict(1, {"A"}) == ["B"]
    assert policy.evict(2) == ["A", "D"]


def test_what_leaves_the_main_queue_leaves_no_ghost() -> None:
    policy: TwoQueuePolicy[str] = TwoQueuePolicy(4)
    for key in "ABCD":
        policy.insert(key)
    assert policy.evict(3) == ["A", "B", "C"]
    policy.insert("C")
    assert policy.evict(1) == ["C"]
    policy.insert("C")
    policy.insert("E")
    # Were C in the main queue, it would not be the second oldest of the first one.
    assert policy.evict(3) == ["D", "C", "E"]


def test_survives_a_scan() -> None:
    policy: TwoQueuePolicy[Hashable] = TwoQueuePolicy(16)
    count_hits(policy, [*range(8), *range(50, 62), *range(8)])
    count_hits(policy, range(100, 1100))
    assert sum(access(policy, key) for key in range(4, 8)) == 4
