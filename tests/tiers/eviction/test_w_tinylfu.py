from collections.abc import Hashable

from tests.contracts.eviction import EvictionContract, count_hits
from tiers.eviction.sketch import FrequencySketch
from tiers.eviction.w_tinylfu import WTinyLFUPolicy


class TestWTinyLFUPolicy(EvictionContract):
    def make(self, capacity: int) -> WTinyLFUPolicy[Hashable]:
        return WTinyLFUPolicy(capacity)


def test_four_blocks() -> None:
    """Of four slots one is the window."""
    policy: WTinyLFUPolicy[int] = WTinyLFUPolicy(4)
    for key in range(4):
        policy.insert(key)
    policy.touch(0)
    # 3 is in the window and was used as often as 1, the oldest that waits for a second use: the newcomer goes.
    assert policy.evict(1) == [3]
    policy.insert(3)
    # By now it was used more often than 1.
    assert policy.evict(1) == [1]
    policy.insert(4)
    assert policy.evict(1, {4}) == [2]
    # Nothing contests the slot of the window's key where it may not go. 0 is protected by its use.
    assert policy.evict(3) == [4, 3, 0]


def test_survives_a_scan() -> None:
    policy: WTinyLFUPolicy[Hashable] = WTinyLFUPolicy(100)
    count_hits(policy, list(range(80)) * 3)
    count_hits(policy, range(1000, 1600))
    # All but the one that was in the window.
    assert sum(key in policy for key in range(80)) >= 79


def test_counts_what_was_used_and_forgets_it_slowly() -> None:
    sketch: FrequencySketch[int] = FrequencySketch(10)
    for _ in range(40):
        sketch.add(1)
    sketch.add(2)
    assert (sketch.count(1), sketch.count(2), sketch.count(3)) == (15, 1, 0)
    for _ in range(100 - 41):
        sketch.add(4)
    assert (sketch.count(1), sketch.count(2), sketch.count(4)) == (7, 0, 7)
    sketch.forget(1)
    assert sketch.count(1) == 0
