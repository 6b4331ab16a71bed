from collections.abc import Hashable

from tests.contracts.eviction import EvictionContract, count_hits
from tiers.eviction.sieve import SievePolicy


class TestSievePolicy(EvictionContract):
    def make(self, capacity: int) -> SievePolicy[Hashable]:
        return SievePolicy(capacity)


def test_four_blocks() -> None:
    policy: SievePolicy[str] = SievePolicy(4)
    for key in "ABCD":
        policy.insert(key)
    policy.touch("A")
    policy.touch("C")
    # A was used: the hand goes on, and A is as unused as any from now on.
    assert policy.evict(1) == ["B"]
    policy.insert("E")
    # The hand is at C, which was used, and goes on to D.
    assert policy.evict(1) == ["D"]
    policy.insert("F")
    # E is next but protected: the hand passes it by.
    assert policy.evict(1, {"E"}) == ["F"]
    # At the end of the queue it starts over, and those that it passed are where they were.
    assert policy.evict(3) == ["A", "C", "E"]


def test_a_use_counts_once_however_often() -> None:
    policy: SievePolicy[str] = SievePolicy(3)
    for key in "ABC":
        policy.insert(key)
    for key in "AAAB":
        policy.touch(key)
    assert policy.evict(3) == ["C", "A", "B"]


def test_survives_a_scan() -> None:
    policy: SievePolicy[Hashable] = SievePolicy(16)
    count_hits(policy, list(range(8)) * 2)
    count_hits(policy, range(100, 1100))
    assert all(key in policy for key in range(8))


def test_behind_the_newest_key_the_hand_starts_over_at_the_oldest() -> None:
    policy: SievePolicy[str] = SievePolicy(2)
    policy.insert("A")
    policy.insert("B")
    policy.touch("A")
    assert policy.evict(1) == ["B"]
    policy.insert("C")
    # The hand was at the end when C came: C is the last to be visited, not the first.
    assert policy.evict(2) == ["A", "C"]
