from collections.abc import Sequence

import numpy as np
import pytest

from prefetch.expert_predictor import Routing
from prefetch.next_gate import Matrix, NextGatePredictor
from tiers.block import BlockKey, ExpertKey

EXPERTS, HIDDEN = 8, 16
EMPTY = np.empty((0, 0), np.float32)


def gate(seed: int) -> Matrix:
    return np.random.default_rng(seed).standard_normal((EXPERTS, HIDDEN)).astype(np.float32)


def key(layer: int, expert: int) -> ExpertKey:
    return ExpertKey(layer, expert, "stored")


def keys(layer: int) -> list[ExpertKey]:
    return [key(layer, expert) for expert in range(EXPERTS)]


def top(weights: Matrix, gate_input: Matrix, layer: int, k: int = 2) -> list[ExpertKey]:
    """What the gate of a layer would choose for one token."""
    return [key(layer, expert) for expert in np.argsort(-(gate_input @ weights.T)[0], kind="stable")[:k].tolist()]


def routing(layer: int, gate_input: Matrix, chosen: Sequence[BlockKey] = ()) -> Routing:
    """One choice a token; expert 99 does not exist."""
    experts = [k.expert for k in chosen if isinstance(k, ExpertKey)] or [99]
    return Routing(layer, gate_input, np.array([experts]), np.ones((1, len(experts)), np.float32))


def test_names_what_the_next_gate_would_choose() -> None:
    """Past a layer without experts, and nothing after the last."""
    gates = [gate(0), EMPTY, gate(2)]
    predictor = NextGatePredictor(gates, [keys(0), [], keys(2)], 2)
    assert predictor.predict(0) == []
    token = np.ones((1, HIDDEN), np.float32)
    predictor.observe(routing(0, token))
    found = predictor.predict(0)
    assert [prediction.keys[0] for prediction in found] == top(gates[2], token, 2)
    assert [prediction.needed_in_steps for prediction in found] == [2, 2]
    predictor.observe(routing(2, token))
    assert predictor.predict(2) == []


def test_many_tokens_share_one_prediction() -> None:
    """The expert that most of them would choose comes first; those that none would choose are not named."""
    weights = gate(1)
    predictor = NextGatePredictor([gate(0), weights], [keys(0), keys(1)], 1)
    tokens = 4 * weights[[3, 3, 3, 5]]  # an expert's own row is what it likes best
    predictor.observe(routing(0, tokens))
    assert [prediction.keys for prediction in predictor.predict(0)] == [(key(1, 3),), (key(1, 5),)]


def test_a_stride_looks_further() -> None:
    gates = [gate(0), gate(1), gate(2), gate(3)]
    predictor = NextGatePredictor(gates, [keys(i) for i in range(4)], 2, most=3, stride=2)
    token = np.ones((1, HIDDEN), np.float32)
    predictor.observe(routing(0, token))
    found = [prediction.keys[0] for prediction in predictor.predict(0)]
    assert found == top(gates[1], token, 1, 3) + top(gates[2], token, 2, 3)
    assert [prediction.needed_in_steps for prediction in predictor.predict(0)] == [1, 1, 1, 2, 2, 2]
    predictor.begin(np.zeros((1, 1), np.int64), 1)
    assert predictor.predict(0) == []


def test_probability_is_the_share_that_came_true() -> None:
    gates = [gate(0), gate(1)]
    predictor = NextGatePredictor(gates, [keys(0), keys(1)], 2)
    random = np.random.default_rng(4)
    for turn in range(600):
        token = random.standard_normal((1, HIDDEN)).astype(np.float32)
        predictor.observe(routing(0, token))
        first, second = predictor.predict(0)
        right = [first.keys[0]] + ([second.keys[0]] if turn % 2 else [])
        predictor.observe(routing(1, token, right))
    assert first.probability == pytest.approx(1.0, abs=0.01)
    assert second.probability == pytest.approx(0.5, abs=0.05)
    shares = [predictor.calibration.share((False, 1, 1, rank)) for rank in (0, 1)]
    assert shares == pytest.approx([1.0, 0.5], abs=0.05)


def test_learns_nothing_from_a_layer_that_was_not_guessed() -> None:
    predictor = NextGatePredictor([gate(0), gate(1)], [keys(0), keys(1)], 2)
    for _ in range(10):
        predictor.observe(routing(1, np.ones((1, HIDDEN), np.float32), keys(1)))
    assert [predictor.calibration.share((False, 1, 1, rank)) for rank in (0, 1)] == [0.0, 0.0]
