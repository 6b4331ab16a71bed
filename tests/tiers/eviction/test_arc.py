from collections.abc import Hashable

from tests.contracts.eviction import EvictionContract, access, count_hits, drain
from tiers.eviction.arc import ARCPolicy


class TestARCPolicy(EvictionContract):
    def make(self, capacity: int) -> ARCPolicy[Hashable]:
        return ARCPolicy(capacity)


def test_four_blocks() -> None:
    policy: ARCPolicy[str] = ARCPolicy(4)
    for key in "ABCD":
        policy.insert(key)
    policy.touch("B")
    policy.touch("A")
    # Used once: C D. Used again: B A. Nothing was regretted yet, so the keys used once pay.
    assert policy.evict(1) == ["C"]
    policy.insert("E")
    # D is next but protected; E is the other one that was used once.
    assert policy.evict(1, {"D"}) == ["E"]
    # C is back: it should have been kept. The keys used once are now entitled to one slot, and D takes it.
    policy.insert("C")
    assert policy.recent_target == 1
    # Used once: D, within its right. Used again: B A C.
    assert policy.evict(1) == ["B"]
    policy.insert("F")
    # Used once: D F, one too many.
    assert policy.evict(1) == ["D"]
    # B is back: it should have been kept, and the right to a slot is lost. There are two ghosts of each kind or fewer.
    policy.insert("B")
    assert policy.recent_target < 1
    # Used once: F. Used again: A C B.
    assert policy.evict(4) == ["F", "A", "C", "B"]


def test_a_ghost_counts_for_more_when_its_kind_is_rare() -> None:
    """The target moves by the ratio of the two kinds of ghosts, as in the paper."""
    policy: ARCPolicy[Hashable] = ARCPolicy(4)
    for key in "ABCD":
        policy.insert(key)
    for key in "ABC":
        policy.touch(key)
    # D becomes a ghost of those used once, then A, B and C of those used again.
    assert policy.evict(4) == ["D", "A", "B", "C"]
    policy.insert("D")
    assert policy.recent_target == 3
    policy.insert("A")
    assert policy.recent_target == 2


def test_a_removed_key_leaves_no_ghost() -> None:
    policy: ARCPolicy[str] = ARCPolicy(4)
    for key in "AB":
        policy.insert(key)
    policy.remove("A")
    policy.insert("A")
    assert policy.recent_target == 0
    assert policy.evict(2) == ["B", "A"]


def test_a_ghost_is_forgotten_in_time() -> None:
    """After a whole tier of other keys an evicted one is nobody's regret any more."""
    policy: ARCPolicy[Hashable] = ARCPolicy(4)
    count_hits(policy, range(9))
    assert not access(policy, 0)
    assert policy.recent_target == 0


def test_twice_as_many_keys_are_known_as_fit() -> None:
    """Of keys that were used twice and evicted, the oldest are forgotten once there are two tiers of them."""
    policy: ARCPolicy[Hashable] = ARCPolicy(4)
    for start in (0, 4):
        count_hits(policy, [*range(start, start + 4)] * 2)
        drain(policy)
    policy.insert("X")
    policy.insert("Y")
    # X and Y cost the ghosts of 0 and 1. So 2 goes back among those used again, and 1 starts as new.
    policy.insert(2)
    policy.insert(1)
    assert policy.evict(4) == ["X", "Y", 1, 2]


def test_the_target_ends_at_the_capacity() -> None:
    policy: ARCPolicy[Hashable] = ARCPolicy(4)
    for key in range(10):
        policy.insert(key)
        assert policy.evict(1) == [key]
        policy.insert(key)
        policy.remove(key)
    assert policy.recent_target == 4


def test_survives_a_scan() -> None:
    policy: ARCPolicy[Hashable] = ARCPolicy(16)
    count_hits(policy, list(range(8)) * 5)
    count_hits(policy, range(100, 1100))
    assert all(key in policy for key in range(8))


def test_adapts_to_recency() -> None:
    """Keys used twice long ago give way when everything that comes back was used once, and lately."""
    policy: ARCPolicy[Hashable] = ARCPolicy(16)
    count_hits(policy, list(range(16)) * 2)
    drifting = [key for new in range(100, 400) for key in (new, new - 6)]
    assert count_hits(policy, drifting) > 250
