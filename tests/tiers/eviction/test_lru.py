from collections.abc import Hashable

from tests.contracts.eviction import EvictionContract, count_hits
from tiers.eviction.lru import LRUPolicy


class TestLRUPolicy(EvictionContract):
    def make(self, capacity: int) -> LRUPolicy[Hashable]:
        return LRUPolicy(capacity)


def test_four_blocks() -> None:
    policy: LRUPolicy[str] = LRUPolicy(4)
    for key in "ABCD":
        policy.insert(key)
    policy.touch("A")
    # A was used after B, C and D came.
    assert policy.evict(1) == ["B"]
    policy.insert("E")
    # C is next but protected, and keeps its place.
    assert policy.evict(1, {"C"}) == ["D"]
    policy.insert("F")
    policy.touch("E")
    assert policy.evict(4) == ["C", "A", "F", "E"]


def test_a_loop_that_does_not_fit_never_hits() -> None:
    """Each key is evicted just before its next use."""
    assert count_hits(LRUPolicy(4), list(range(5)) * 20) == 0


def test_a_loop_that_fits_always_hits() -> None:
    assert count_hits(LRUPolicy(4), list(range(4)) * 20) == 4 * 19


def test_a_scan_flushes_everything() -> None:
    """The weakness for which ARC and S3-FIFO are there."""
    policy: LRUPolicy[Hashable] = LRUPolicy(16)
    count_hits(policy, list(range(8)) * 5)
    count_hits(policy, range(100, 120))
    assert not any(key in policy for key in range(8))
