"""Replay of recorded routing: the counts, the bound, and the same order of operations as in the runtime."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from prefetch.next_gate import NextGatePredictor
from prefetch.oracle import OraclePredictor
from prefetch.popularity import PopularityPredictor
from simulators.belady import belady_misses
from simulators.expert_comparison import MakePolicy, compare
from simulators.expert_replay import PrefetchLimits, replay
from simulators.expert_trace import ExpertTrace
from simulators.expert_visits import keys_of, passes_of, tokens_of
from simulators.prediction_score import good_predictions
from simulators.routing_generator import RoutingShape, generate_routing
from tiers.block import ExpertKey
from tiers.errors import BudgetError, InvalidOptionError, TraceError
from tiers.eviction.expected_use import ExpectedUsePolicy
from tiers.eviction.lru import LRUPolicy
from tiers.eviction.next_use import NextUsePolicy
from tiers.eviction.registry import POLICIES, make_policy

LAYERS, EXPERTS, TOP_K = 4, 8, 2


def made(**changes: float) -> ExpertTrace:
    return generate_routing([(12, 40), (1, 30)], LAYERS, EXPERTS, TOP_K, shape=RoutingShape(**changes), seed=1)


def by_hand(*passes: Sequence[Sequence[int]], experts: int = 4) -> ExpertTrace:
    """One token a pass; the experts of each layer."""
    chosen = np.array(passes, np.int16)
    tokens, layers = chosen.shape[:2]
    return ExpertTrace(
        model="by hand",
        num_experts=experts,
        layers=np.arange(layers, dtype=np.int32),
        tokens=np.arange(tokens, dtype=np.int32),
        requests=np.zeros(tokens, np.int32),
        passes=np.arange(tokens, dtype=np.int32),
        experts=chosen,
        weights=np.ones(chosen.shape, np.float16),
        gate_inputs=np.zeros((tokens, layers, 0), np.float16),
        gates=np.zeros((layers, experts, 0), np.float32),
    )


def test_hits_and_misses_by_hand() -> None:
    """Two layers, three slots: 0 of each layer, then 1 of layer 1 drives out the older one."""
    trace = by_hand([[0], [0]], [[0], [1]], [[0], [0]], [[1], [0]], [[0], [0]])
    result = replay(trace, LRUPolicy(3))
    assert [(one.hits, one.misses) for one in result.passes] == [(0, 2), (1, 1), (2, 0), (1, 1), (2, 0)]
    assert result.is_decode == (False, True, True, True, True)
    assert result.counts().hit_ratio == 6 / 8
    assert result.counts(decode_only=False).hit_ratio == 6 / 10
    assert result.counts().fetched == 2


def test_masked_choices_are_no_accesses() -> None:
    result = replay(by_hand([[0, 4]], [[4, 4]], [[0, 1]]), LRUPolicy(3))
    assert [one.accesses for one in result.passes] == [1, 0, 2]


def test_a_visit_of_more_than_all_slots() -> None:
    """A prompt may need more experts of a layer than there is room for; a single token may not."""
    trace = made()
    assert len(passes_of(trace)[0].visits[0]) > 3
    assert replay(trace, ExpectedUsePolicy(3)).counts(decode_only=False).accesses > 0
    with pytest.raises(BudgetError, match="1 slots do not hold the 2 experts"):
        replay(trace, LRUPolicy(1))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("slots", [3, 8, 16, 31])
def test_nobody_beats_belady(policy: str, slots: int) -> None:
    trace = made()
    passes = passes_of(trace)
    misses = sum(one.misses for one in replay(trace, make_policy(policy, slots), passes=passes).passes)
    assert misses >= sum(belady_misses(passes, slots))


def oracle(trace: ExpertTrace, lookahead: int) -> OraclePredictor:
    return OraclePredictor([one.visits for one in passes_of(trace)], trace.layers.tolist(), lookahead)


def test_forecasts_of_the_whole_future_make_belady() -> None:
    trace = made()
    passes = passes_of(trace)
    everything = oracle(trace, LAYERS * len(passes))
    found = [one.misses for one in replay(trace, NextUsePolicy(12), everything, passes=passes).passes]
    assert sum(found[1:]) == sum(belady_misses(passes, 12)[1:])


def test_what_is_fetched_ahead_in_time_is_not_missed() -> None:
    """By an oracle that sees the next layer, over a link that is fast enough, and with a policy that listens."""
    trace = made()
    limits = PrefetchLimits(per_step=8, most=8)
    result = replay(trace, ExpectedUsePolicy(16), oracle(trace, 1), limits)
    assert result.score.accuracy == 1.0
    assert result.counts().misses == 0
    assert result.counts().wasted == 0
    assert result.counts().prefetch_hits > 0


def test_wrong_guesses_are_waste() -> None:
    trace = made()
    limits = PrefetchLimits(per_step=8, most=8, least_probability=0.0)
    keys = keys_of(trace)
    wrong = PopularityPredictor(keys, 3, counts=[np.arange(1.0, EXPERTS + 1)] * LAYERS)
    alone = replay(trace, LRUPolicy(12)).counts()
    result = replay(trace, LRUPolicy(12), wrong, limits).counts()
    assert result.wasted > 0
    assert result.accesses == alone.accesses
    assert result.fetched == result.misses + result.prefetch_hits + result.wasted
    careful = replay(
        trace, LRUPolicy(12), PopularityPredictor(keys, 3), replace(limits, least_probability=1.1)
    ).counts()
    assert careful == alone


def test_a_forecast_keeps_what_is_needed_next() -> None:
    trace = generate_routing([(1, 120)], LAYERS, EXPERTS, TOP_K, shape=RoutingShape(continuity=0.99), seed=3)
    gates = NextGatePredictor(list(trace.gates), keys_of(trace), TOP_K)
    alone, told = (replay(trace, ExpectedUsePolicy(5), predictor).counts() for predictor in (None, gates))
    assert told.hit_ratio > alone.hit_ratio


def test_compares_everything_with_everything() -> None:
    policies: dict[str, MakePolicy] = {"lru": LRUPolicy, "ours": ExpectedUsePolicy}
    predictors = {"none": None, "popularity": lambda trace: PopularityPredictor(keys_of(trace), TOP_K)}
    rows = compare(made(), [8, 16], policies, predictors, lambda slots: PrefetchLimits(2, slots // 8))
    assert [(row.slots, row.policy, row.predictor) for row in rows[:4]] == [
        (8, "lru", None),
        (8, "lru", "popularity"),
        (8, "ours", None),
        (8, "ours", "popularity"),
    ]
    assert all(row.of_belady <= 1.0 and row.belady_gap >= 0.0 for row in rows if row.predictor is None)
    assert all((row.accuracy is None) == (row.predictor is None) for row in rows)
    with pytest.raises(TraceError, match="no decode pass"):
        compare(generate_routing([(9, 0)], 2, 4, 1), [4], policies, predictors)


def test_passes_of_batches() -> None:
    """Two requests, of which the second comes later: a pass with a prompt in it is no decode pass."""
    trace = replace(
        by_hand(*[[[i % 4]] for i in range(7)]),
        requests=np.array([0, 0, 0, 1, 1, 0, 1], np.int32),
        passes=np.array([0, 0, 1, 1, 1, 2, 2], np.int32),
    )
    passes = passes_of(trace)
    assert [(one.position, one.num_requests, one.is_decode) for one in passes] == [
        (0, 1, False),
        (2, 2, False),
        (3, 2, True),
    ]
    assert [tokens_of(trace, one).tolist() for one in passes] == [[[0, 1]], [[2, 3, 4]], [[5], [6]]]


def test_generated_routing_is_what_it_says() -> None:
    """Each property where it is asked for; the same twice; and a warning where there is none of them."""

    def overlap(trace: ExpertTrace, axis: int) -> float:
        one, other = (
            (trace.experts[:-1], trace.experts[1:]) if axis == 0 else (trace.experts[:, :-1], trace.experts[:, 1:])
        )
        return float((one[..., :, None] == other[..., None, :]).any(axis=-1).mean())

    chance = TOP_K / EXPERTS
    nothing = {"skew": 0.0, "locality": 0.0, "topic": 0.0}
    with pytest.warns(UserWarning, match="uniform"):
        uniform = made(**nothing)
    assert overlap(uniform, 0) == pytest.approx(chance, abs=0.1)
    local, topical, skewed = (made(**(nothing | {name: 0.8})) for name in ("locality", "topic", "skew"))
    assert min(overlap(trace, 0) for trace in (local, topical, skewed)) > chance + 0.1
    again = made(skew=0.8, locality=0.0, topic=0.0)
    assert np.array_equal(again.experts, skewed.experts)
    with pytest.raises(InvalidOptionError, match="skew of a routing is 2"):
        RoutingShape(skew=2.0)
    with pytest.raises(InvalidOptionError, match="9 of 8 experts"):
        generate_routing([(1, 1)], 2, 8, 9)


def test_a_prediction_is_good_if_it_is_right_and_in_time() -> None:
    a, b, c, d = (ExpertKey(0, i, "stored") for i in range(4))
    assert good_predictions({a, b}, {a, b}, {a, b}) == 1.0
    assert good_predictions({a, b}, {a, b}, {a}) == 0.5
    assert good_predictions({a, b}, {a, c}, {a, c, d}) == 0.5
    assert good_predictions({a}, {b}, {b}) == 0.0
    assert good_predictions(set(), {a}, set()) == 1.0
