from collections.abc import Hashable
from random import Random

from simulators.belady import ideal_hit_ratio
from tests.contracts.eviction import EvictionContract, count_hits, drain
from tiers.eviction.batch_plan import BatchPlanPolicy, SupportsPlan
from tiers.eviction.lru import LRUPolicy


class TestBatchPlanPolicy(EvictionContract):
    """Without a plan: LRU."""

    def make(self, capacity: int) -> BatchPlanPolicy[Hashable]:
        return BatchPlanPolicy(capacity)


class TestBatchPlanPolicyWithAPlan(EvictionContract):
    """The places of a plan are memory too: some uses of half of the keys are planned."""

    nbytes_per_key = 900

    def make(self, capacity: int) -> BatchPlanPolicy[Hashable]:
        policy: BatchPlanPolicy[Hashable] = BatchPlanPolicy(capacity)
        policy.plan([*range(0, 2 * capacity, 2), *range(0, 2 * capacity, 2)])
        return policy

    def test_forgets_what_was_removed(self) -> None:
        """Not the uses that have been: the plan goes on."""
        policy = self.make(4)
        for key in (0, 2, 4, 6):
            policy.insert(key)
        policy.remove(2)
        policy.insert(2)
        assert drain(policy) == [2, 6, 4, 0]


def test_four_blocks() -> None:
    policy: BatchPlanPolicy[str] = BatchPlanPolicy(4)
    assert isinstance(policy, SupportsPlan)
    policy.plan("ABCDBACB")
    for key in "ABCD":
        policy.insert(key)
    # D is not used again, and A sooner than C; B is sooner than both.
    assert policy.evict(2) == ["D", "C"]
    policy.insert("X")
    policy.touch("B")
    # X is in no plan. B's last use is the last of all.
    assert policy.evict(2, {"B"}) == ["X", "A"]
    policy.plan("")
    policy.insert("A")
    assert policy.evict(2) == ["B", "A"]


def test_with_all_uses_planned_it_is_belady() -> None:
    random = Random(3)
    trace: list[int] = [min(int(random.expovariate(0.05)), 79) for _ in range(4000)]
    for capacity in (1, 7, 30):
        policy: BatchPlanPolicy[Hashable] = BatchPlanPolicy(capacity)
        policy.plan(trace)
        assert count_hits(policy, trace) == round(ideal_hit_ratio(trace, capacity) * len(trace))


def test_without_a_plan_it_is_lru() -> None:
    random = Random(4)
    trace = [random.randrange(20) for _ in range(500)]
    policies: tuple[BatchPlanPolicy[Hashable], LRUPolicy[Hashable]] = (BatchPlanPolicy(8), LRUPolicy(8))
    assert len({count_hits(policy, trace) for policy in policies}) == 1
