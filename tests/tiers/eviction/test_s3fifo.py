from collections.abc import Hashable

from tests.contracts.eviction import EvictionContract, access, count_hits, drain
from tiers.eviction.s3fifo import S3FIFOPolicy


class TestS3FIFOPolicy(EvictionContract):
    def make(self, capacity: int) -> S3FIFOPolicy[Hashable]:
        return S3FIFOPolicy(capacity)


def test_four_blocks() -> None:
    """Of four slots the small queue has one, but may borrow what the main queue leaves."""
    policy: S3FIFOPolicy[str] = S3FIFOPolicy(4)
    for key in "ABCD":
        policy.insert(key)
    for key in "AAB":
        policy.touch(key)
    # A was used twice more and moves on to the main queue; once more, as B was, is not enough.
    assert policy.evict(1) == ["B"]
    # B is a ghost and goes to the main queue at once. Small: C D. Main: A B.
    policy.insert("B")
    # C is next but protected, and keeps its place.
    assert policy.evict(1, {"C"}) == ["D"]
    policy.insert("E")
    policy.touch("A")
    # Small: C E, then empty. Main: A earned another round by its use, so B goes before it.
    assert policy.evict(4) == ["C", "E", "B", "A"]


def test_uses_are_counted_up_to_three() -> None:
    """A hundred uses are worth as much as three, so among keys used that often the first to come is the first to go."""
    policy: S3FIFOPolicy[str] = S3FIFOPolicy(4)
    for key in ("popular", "modest", "new"):
        policy.insert(key)
    for key in ("popular", "modest") * 2:
        policy.touch(key)
    assert policy.evict(1) == ["new"]
    # Both are in the main queue by now, where they begin to count anew.
    for key in ["popular"] * 100 + ["modest"] * 3:
        policy.touch(key)
    assert policy.evict(2) == ["popular", "modest"]


def test_uses_are_counted_anew_in_the_main_queue() -> None:
    policy: S3FIFOPolicy[str] = S3FIFOPolicy(4)
    policy.insert("A")
    policy.insert("B")
    for _ in range(3):
        policy.touch("A")
    assert policy.evict(1) == ["B"]
    # Back from the ghosts B joins A, which spent its uses on the move.
    policy.insert("B")
    policy.touch("B")
    assert policy.evict(2) == ["A", "B"]


def test_a_removed_key_leaves_no_ghost() -> None:
    policy: S3FIFOPolicy[str] = S3FIFOPolicy(4)
    for key in "AB":
        policy.insert(key)
    policy.remove("A")
    policy.insert("A")
    policy.insert("C")
    # As a ghost A would be in the main queue now, and last to go.
    assert policy.evict(3) == ["B", "A", "C"]


def test_a_ghost_is_forgotten_in_time() -> None:
    """Three ghosts are kept for four slots: the third victim after a key pushes its ghost out."""
    for num_keys, last_to_go in ((6, 0), (7, "newest")):
        policy: S3FIFOPolicy[Hashable] = S3FIFOPolicy(4)
        count_hits(policy, range(num_keys))
        # Room is made first, so two victims came after 0 in the first case, three in the second.
        assert not access(policy, 0)
        assert policy.evict(1) == [num_keys - 3]
        policy.insert("newest")
        # The main queue, where 0 is if it was remembered, is spared until the small one is empty.
        assert drain(policy)[-1] == last_to_go


def test_survives_a_scan() -> None:
    policy: S3FIFOPolicy[Hashable] = S3FIFOPolicy(16)
    count_hits(policy, list(range(8)) * 5)
    count_hits(policy, range(100, 1100))
    assert all(key in policy for key in range(8))
