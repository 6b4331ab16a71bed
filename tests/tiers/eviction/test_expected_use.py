from collections.abc import Hashable
from random import Random

import pytest

from tests.contracts.eviction import access, drain
from tests.contracts.forecasting import ForecastingContract
from tiers.block import ExpertKey
from tiers.eviction.arc import ARCPolicy
from tiers.eviction.base import EvictionPolicy, Expected
from tiers.eviction.expected_use import ExpectedUsePolicy
from tiers.eviction.lfu import LFUPolicy
from tiers.eviction.lru import LRUPolicy


class TestExpectedUsePolicy(ForecastingContract):
    """Keys of no layer. It remembers four keys that left for one that is there."""

    nbytes_per_key = 1400
    num_keys = 1000

    def make(self, capacity: int) -> ExpectedUsePolicy[Hashable]:
        return ExpectedUsePolicy(capacity)


class TestExpectedUsePolicyOfLayers(ForecastingContract):
    nbytes_per_key = 1400
    num_keys = 1000

    def make(self, capacity: int) -> ExpectedUsePolicy[Hashable]:
        return ExpectedUsePolicy(capacity, layer_of=lambda key: key % 3 if isinstance(key, int) else 0)


def layer(key: object) -> int:
    return int(str(key)[0])


def test_two_layers() -> None:
    policy: ExpectedUsePolicy[Hashable] = ExpectedUsePolicy(6, layer_of=layer)
    for token in (["0a", "1a"], ["0b", "1a"], ["0a", "1b"], ["0a", "1a"], ["0a"]):
        for key in token:
            access(policy, key)
    # Layer 1 is next: a half pass away, 0 is a whole one. 0a and 1a are drawn often, 0b and 1b were drawn once, and 1b
    # later than 0b.
    assert drain(policy) == ["0b", "1b", "0a", "1a"]


def test_what_left_is_remembered() -> None:
    policy: ExpectedUsePolicy[Hashable] = ExpectedUsePolicy(6, layer_of=layer)
    for token in [["0a", "1a"], ["0b", "1a"]] * 3:
        for key in token:
            access(policy, key)
    assert policy.evict(1, {"0a", "1a"}) == ["0b"]
    for key in ("0b", "0c", "1a", "1b", "0d"):
        access(policy, key)
    assert policy.evict(2, {"0d", "1b", "1a"}) == ["0c", "0a"]


def test_a_forecast_counts_for_one_pass() -> None:
    """What is surely needed next stays, for as long as it is said to be."""
    policy: ExpectedUsePolicy[Hashable] = ExpectedUsePolicy(6, layer_of=layer)
    for token in [["0a", "1a"], ["0a", "1a"], ["0b", "1b"], ["0a"]]:
        for key in token:
            access(policy, key)
    assert policy.evict(1, {"0a", "0b"}) == ["1b"]
    policy.insert("1b")
    policy.touch("0a")
    policy.forecast(0, [("1b", Expected(1.0, 1))])
    assert policy.evict(1) == ["0b"]
    assert policy.evict(2) == ["1a", "0a"]
    policy.forecast(1, [])
    policy.insert("0a")
    assert policy.evict(1) == ["1b"]


def test_a_forecast_may_be_of_a_later_pass() -> None:
    """0a is drawn nearly every time, and 0b will be: after the next time, when it is no better than 0a."""
    policy: ExpectedUsePolicy[Hashable] = ExpectedUsePolicy(6, layer_of=layer)
    for token in [["0a", "1a"], ["0b", "1a"], ["0a", "1b"], ["0a", "1a"], ["0a"]]:
        for key in token:
            access(policy, key)
    policy.forecast(0, [("1b", Expected(1.0, 1)), ("0b", Expected(1.0, 4))])
    assert drain(policy) == ["0b", "0a", "1a", "1b"]


@pytest.mark.parametrize(("locality", "others"), [(0.0, LFUPolicy), (0.8, LRUPolicy)])
def test_learns_whether_routing_is_local(locality: float, others: type[EvictionPolicy[Hashable]]) -> None:
    """Either what is popular or what was drawn last comes back: it is close to the policy made for that, or better."""
    random = Random(3)
    visits = []
    drawn = [random.sample(range(16), 4) for _ in range(8)]
    for _ in range(200):
        for at in range(8):
            odds = [1 / (1 + i) if locality == 0 else 1.0 for i in range(16)]
            new = random.choices(range(16), odds, k=4)
            drawn[at] = sorted({a if random.random() < locality else b for a, b in zip(drawn[at], new, strict=False)})
            visits.append([ExpertKey(at, expert, "int4") for expert in drawn[at]])

    def hits(policy: EvictionPolicy[Hashable]) -> int:
        return sum(access(policy, key) for visit in visits for key in visit)

    assert hits(ExpectedUsePolicy(48)) > 0.97 * hits(others(48))


@pytest.mark.parametrize("slots", [40, 52, 100, 180])
def test_experts_drawn_by_popularity(slots: int) -> None:
    """Twelve layers of 32 experts, four a token with the odds of Zipf: more hits than LRU, LFU and ARC."""
    random = Random(3)
    ranks = [random.sample(range(32), 32) for _ in range(12)]

    def hits(policy: EvictionPolicy[Hashable]) -> int:
        draw, count = Random(5), 0
        for _ in range(300):
            for layer in range(12):
                odds = [1 / (1 + rank) for rank in ranks[layer]]
                chosen = {draw.choices(range(32), odds)[0] for _ in range(4)}
                count += sum(access(policy, ExpertKey(layer, expert, "int4")) for expert in sorted(chosen))
        return count

    others: list[EvictionPolicy[Hashable]] = [LRUPolicy(slots), LFUPolicy(slots), ARCPolicy(slots)]
    assert hits(ExpectedUsePolicy(slots)) > max(hits(other) for other in others)
