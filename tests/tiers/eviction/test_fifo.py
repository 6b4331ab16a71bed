from collections.abc import Hashable

from tests.contracts.eviction import EvictionContract, drain
from tiers.eviction.fifo import FIFOPolicy


class TestFIFOPolicy(EvictionContract):
    def make(self, capacity: int) -> FIFOPolicy[Hashable]:
        return FIFOPolicy(capacity)


def test_four_blocks() -> None:
    policy: FIFOPolicy[str] = FIFOPolicy(4)
    for key in "ABCD":
        policy.insert(key)
    policy.touch("A")
    # Being used does not help: A came first.
    assert policy.evict(1) == ["A"]
    policy.insert("E")
    # B is next but protected, and keeps its place at the front.
    assert policy.evict(2, {"B"}) == ["C", "D"]
    policy.insert("F")
    # A comes back at the end of the queue.
    policy.insert("A")
    assert policy.evict(4) == ["B", "E", "F", "A"]


def test_hits_leave_the_order_alone() -> None:
    policy: FIFOPolicy[Hashable] = FIFOPolicy(4)
    for key in range(4):
        policy.insert(key)
    for key in (3, 0, 0, 1, 2):
        policy.touch(key)
    assert drain(policy) == [0, 1, 2, 3]
