from collections.abc import Hashable

import pytest

from tests.contracts.eviction import EvictionContract, count_hits
from tiers.eviction.mru import MRUPolicy


class TestMRUPolicy(EvictionContract):
    def make(self, capacity: int) -> MRUPolicy[Hashable]:
        return MRUPolicy(capacity)


def test_four_blocks() -> None:
    policy: MRUPolicy[str] = MRUPolicy(4)
    for key in "ABCD":
        policy.insert(key)
    policy.touch("B")
    # B was used last.
    assert policy.evict(1) == ["B"]
    # E is newest, but it was just loaded for the step that runs now.
    policy.insert("E")
    assert policy.evict(1, {"E"}) == ["D"]
    policy.touch("A")
    assert policy.evict(3) == ["A", "E", "C"]


@pytest.mark.parametrize(("num_keys", "capacity"), [(5, 4), (10, 4), (22, 7), (32, 31), (9, 2), (6, 1)])
def test_hit_ratio_of_a_loop(num_keys: int, capacity: int) -> None:
    """In the long run (C - 1) / (N - 1), exactly, over every N - 1 rounds."""
    policy: MRUPolicy[Hashable] = MRUPolicy(capacity)
    count_hits(policy, list(range(num_keys)) * 2)
    rounds = num_keys - 1
    assert count_hits(policy, list(range(num_keys)) * rounds) == num_keys * (capacity - 1)


def test_a_loop_that_fits_always_hits() -> None:
    assert count_hits(MRUPolicy(4), list(range(4)) * 20) == 4 * 19
