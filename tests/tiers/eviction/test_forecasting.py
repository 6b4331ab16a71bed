from collections.abc import Hashable
from random import Random

from tests.contracts.eviction import access, drain
from tests.contracts.forecasting import ForecastingContract
from tests.tiers.eviction.test_scored import layer
from tiers.eviction.base import Expected
from tiers.eviction.next_use import NextUsePolicy
from tiers.eviction.plec import PLECPolicy


class TestNextUsePolicy(ForecastingContract):
    nbytes_per_key = 600
    num_keys = 1000
    num_histories = 25

    def make(self, capacity: int) -> NextUsePolicy[Hashable]:
        return NextUsePolicy(capacity)


class TestPLECPolicy(ForecastingContract):
    nbytes_per_key = 600
    num_keys = 1000
    num_histories = 25

    def make(self, capacity: int) -> PLECPolicy[Hashable]:
        return PLECPolicy(capacity)


def test_needed_latest_goes_first() -> None:
    policy: NextUsePolicy[Hashable] = NextUsePolicy(4)
    for key in "abcd":
        policy.insert(key)
    needs = [("a", 3), ("b", 1), ("a", 2), ("d", 7)]
    policy.forecast(0, [(key, Expected(1.0, steps)) for key, steps in needs])
    assert drain(policy) == ["c", "d", "a", "b"]


def test_with_the_whole_future_it_is_belady() -> None:
    """No other choice of victims has fewer misses."""
    random = Random(2)
    for _ in range(40):
        trace = [random.randrange(5) for _ in range(12)]
        policy: NextUsePolicy[Hashable] = NextUsePolicy(3)
        misses = 0
        for time, key in enumerate(trace):
            policy.forecast(time, [(later, Expected(1.0, at)) for at, later in enumerate(trace[time:])])
            misses += not access(policy, key)
        assert misses == fewest_misses(trace, 3)


def fewest_misses(trace: list[int], slots: int) -> int:
    """By trying everything."""
    states = {frozenset[int](): 0}
    for key in trace:
        after: dict[frozenset[int], int] = {}
        for state, misses in states.items():
            if key in state:
                choices = [(state, misses)]
            elif len(state) < slots:
                choices = [(state | {key}, misses + 1)]
            else:
                choices = [(state - {victim} | {key}, misses + 1) for victim in state]
            for chosen, count in choices:
                after[chosen] = min(count, after.get(chosen, count))
        states = after
    return min(states.values())


def test_slots_go_to_the_layers_ahead() -> None:
    policy: PLECPolicy[Hashable] = PLECPolicy(8, layer)
    for key in ("0a", "0b", "2a", "2b", "2c", "3a", "1a", "1b"):
        policy.insert(key)
    expected = {"2a": 0.9, "2b": 0.8, "2c": 0.7, "3a": 0.6, "3b": 0.6, "3c": 0.6, "3d": 0.6, "4a": 0.9, "4b": 0.9}
    policy.touch("1a")
    policy.forecast(1, [(key, Expected(share, int(key[0]) - 1)) for key, share in expected.items()])
    # Layer 1 is current: 1a was right, and whoever evicts is using it. Of what nobody expects, 1b was used last but its
    # layer has just been; layer 0 comes round sooner. The share of layer 2 is 2.9 of the 8 slots, and 2c comes third.
    assert policy.evict(5, {"1a"}) == ["1b", "0a", "0b", "2c", "3a"]
    assert policy.evict(2, {"1a"}) == ["2b", "2a"]


def test_what_the_gate_did_not_choose_goes_first() -> None:
    policy: PLECPolicy[Hashable] = PLECPolicy(4, layer)
    for key in ("0a", "1a", "1b", "2a"):
        policy.insert(key)
    policy.forecast(0, [("1a", Expected(0.5, 1)), ("1b", Expected(0.9, 1))])
    policy.forecast(1, [("2a", Expected(0.5, 1))])
    policy.touch("1a")
    assert policy.evict(1) == ["1b"]
