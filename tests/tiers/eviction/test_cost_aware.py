import math
from collections.abc import Hashable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contracts.eviction import EvictionContract, drain
from tiers.eviction.cost_aware import CostAwarePolicy


class TestCostAwarePolicy(EvictionContract):
    def make(self, capacity: int) -> CostAwarePolicy[Hashable]:
        return CostAwarePolicy(capacity)


def test_four_blocks() -> None:
    policy: CostAwarePolicy[str] = CostAwarePolicy(4)
    for key, cost in {"A": 4.0, "B": 1.0, "C": 2.0, "D": 1.0}.items():
        policy.insert(key, cost)
    policy.touch("B")
    # Priorities: A 4, B 2 (two uses), C 2, D 1. The clock rises to 1.
    assert policy.evict(1) == ["D"]
    policy.insert("E", 1.0)
    # E starts at 1 + 1, level with B and C; C's last use is the oldest, but C is protected, and B is next.
    assert policy.evict(1, {"C"}) == ["B"]
    policy.insert("F", 3.0)
    # The clock was 2 when F came, so F stands at 5, above A, which was as precious as four of D once.
    assert policy.evict(4) == ["C", "E", "A", "F"]


def test_what_was_precious_once_does_not_stay_for_ever() -> None:
    """Cheap keys that keep coming raise the clock until an expensive one that nobody uses has to go."""
    policy: CostAwarePolicy[Hashable] = CostAwarePolicy(2)
    policy.insert("precious", 10.0)
    lifetimes = 0
    while "precious" in policy:
        policy.insert(lifetimes, 1.0)
        policy.evict(1)
        lifetimes += 1
    # The tenth cheap key reaches the same priority of 10, but its use is the later one.
    assert lifetimes == 10


def test_the_clock_never_goes_back() -> None:
    """A key that was protected until the clock had overtaken it must not pull new keys down when it goes at last."""
    policy: CostAwarePolicy[str] = CostAwarePolicy(4)
    policy.insert("kept", 1.0)
    policy.insert("dear", 8.0)
    assert policy.evict(1, {"kept"}) == ["dear"]
    policy.insert("before", 1.0)
    assert policy.evict(1) == ["kept"]
    policy.insert("after", 1.0)
    assert policy.evict(2) == ["before", "after"]


@pytest.mark.parametrize("cost", [-1.0, math.nan, math.inf])
def test_refuses_a_cost_that_has_no_place_in_an_order(cost: float) -> None:
    policy: CostAwarePolicy[str] = CostAwarePolicy(4)
    with pytest.raises(ValueError, match="finite and at least 0"):
        policy.insert("A", cost)
    assert len(policy) == 0
    assert policy.evict(1) == []


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["use", "use", "use", "remove", "evict"]),
        st.integers(0, 8),
        st.sampled_from([0.0, 0.1, 0.3, 1.0, 2.5]),
        st.sets(st.integers(0, 8), max_size=3),
    ),
    max_size=80,
)


@given(ACTIONS)
def test_agrees_with_the_formula(actions: list[tuple[str, int, float, set[int]]]) -> None:
    """Against priorities computed at every use and searched from end to end."""
    policy: CostAwarePolicy[Hashable] = CostAwarePolicy(9)
    rank: dict[Hashable, tuple[float, int]] = {}
    uses: dict[Hashable, tuple[int, float]] = {}
    clock = 0.0
    for now, (action, key, cost, protected) in enumerate(actions):
        if action == "evict":
            wanted = sorted(rank.keys() - protected, key=lambda key: rank[key])[:key]
            assert policy.evict(len(wanted), protected) == wanted
            clock = max([clock, *(rank.pop(key)[0] for key in wanted)])
        elif key not in rank:
            policy.insert(key, cost)
            uses[key] = (1, cost)
            rank[key] = (clock + cost, now)
        elif action == "use":
            policy.touch(key)
            uses[key] = (uses[key][0] + 1, uses[key][1])
            rank[key] = (clock + uses[key][0] * uses[key][1], now)
        else:
            policy.remove(key)
            del rank[key]
    assert drain(policy) == sorted(rank, key=lambda key: rank[key])
