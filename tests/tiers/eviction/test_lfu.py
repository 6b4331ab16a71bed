from collections.abc import Hashable

from hypothesis import given
from hypothesis import strategies as st

from tests.contracts.eviction import EvictionContract, drain
from tiers.eviction.lfu import LFUPolicy


class TestLFUPolicy(EvictionContract):
    def make(self, capacity: int) -> LFUPolicy[Hashable]:
        return LFUPolicy(capacity)


def test_four_blocks() -> None:
    policy: LFUPolicy[str] = LFUPolicy(4)
    for key in "ABCD":
        policy.insert(key)
    for key in "AABC":
        policy.touch(key)
    # Uses: A 3, B 2, C 2, D 1.
    assert policy.evict(1) == ["D"]
    policy.insert("E")
    # E has one use only, but is protected. B and C have two each, and B's last one is longer ago.
    assert policy.evict(1, {"E"}) == ["B"]
    # B starts again from one use, later than E.
    policy.insert("B")
    assert policy.evict(4) == ["E", "B", "C", "A"]


def test_equal_uses_go_by_recency() -> None:
    """A key joins those with as many uses as their most recent one, and may overtake them all."""
    policy: LFUPolicy[Hashable] = LFUPolicy(5)
    for key in range(5):
        policy.insert(key)
    for key in (3, 1, 4, 1, 3):
        policy.touch(key)
    policy.remove(3)
    policy.insert(3)
    assert drain(policy) == [0, 2, 3, 4, 1]


ACTIONS = st.lists(st.tuples(st.sampled_from(["use", "use", "use", "remove", "evict"]), st.integers(0, 8)), max_size=80)


@given(ACTIONS)
def test_agrees_with_counting(actions: list[tuple[str, int]]) -> None:
    """Against uses and times of last use in a dict, searched from end to end."""
    policy: LFUPolicy[Hashable] = LFUPolicy(9)
    rank: dict[Hashable, tuple[int, int]] = {}
    for now, (action, key) in enumerate(actions):
        if action == "evict":
            wanted = sorted(rank, key=lambda key: rank[key])[:key]
            assert policy.evict(len(wanted)) == wanted
            rank = {key: rank[key] for key in rank if key not in wanted}
        elif key not in rank:
            policy.insert(key)
            rank[key] = (1, now)
        elif action == "use":
            policy.touch(key)
            rank[key] = (rank[key][0] + 1, now)
        else:
            policy.remove(key)
            del rank[key]
    assert drain(policy) == sorted(rank, key=lambda key: rank[key])
