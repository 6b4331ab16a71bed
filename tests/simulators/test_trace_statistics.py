"""Statistics of traces whose figures are known."""

import math
from typing import Any

import numpy as np
import pytest

from simulators.expert_trace import ExpertTrace
from simulators.trace_statistics import (
    chosen_experts,
    layer_statistics,
    neighbours,
    recall,
)

EXPERTS, K = 4, 2


def trace(experts: Any, **changes: Any) -> ExpertTrace:
    """Of ``experts`` [tokens, layers, k], a pass for each token."""
    chosen = np.array(experts, np.int16)
    tokens, layers, _ = chosen.shape
    arrays: dict[str, Any] = {
        "model": "a model",
        "num_experts": EXPERTS,
        "layers": np.arange(layers, dtype=np.int32),
        "tokens": np.zeros(tokens, np.int32),
        "requests": np.zeros(tokens, np.int32),
        "passes": np.arange(tokens, dtype=np.int32),
        "experts": chosen,
        "weights": np.full(chosen.shape, 0.5, np.float16),
        "gate_inputs": np.zeros((tokens, layers, 0), np.float16),
        "gates": np.zeros((layers, EXPERTS, 0), np.float32),
    }
    return ExpertTrace(**(arrays | changes))


def test_masked_choices_are_none() -> None:
    assert chosen_experts(trace([[[1, EXPERTS]]])).tolist() == [[[False, True, False, False]]]


def test_recall_counts_as_many_guesses_as_there_are_visits() -> None:
    visited = np.array([[True, True, False, False], [False, False, False, True]])
    assert recall(np.array([[9, 1, 8, 0], [0, 1, 2, 3]], float), visited) == pytest.approx(2 / 3)
    assert math.isnan(recall(np.ones((1, 4)), np.zeros((1, 4), bool)))


def test_neighbours_are_of_one_request() -> None:
    """Two sequences side by side: a pass of two tokens each, then one of one."""
    batched = trace(
        [[[0, 1]]] * 6,
        requests=np.array([0, 0, 1, 1, 0, 1], np.int32),
        passes=np.array([0, 0, 0, 0, 1, 1], np.int32),
    )
    before, now = neighbours(batched)
    assert list(zip(before.tolist(), now.tolist(), strict=True)) == [(0, 1), (1, 4), (2, 3), (3, 5)]


def test_skew_and_locality() -> None:
    (layer,) = layer_statistics(trace([[[0, 1]], [[0, 2]], [[0, 2]], [[0, 3]]]))
    assert layer.max_to_mean == 2.0  # 4 visits, 8 in all to 4 experts
    shares = np.array([4, 1, 2, 1]) / 8
    assert layer.entropy == pytest.approx(-(shares * np.log2(shares)).sum() / 2)
    assert layer.overlap == pytest.approx((1 + 2 + 1) / 6)
    assert layer.overlap_by_popularity == pytest.approx((1 + 1 / 16 + 1 / 4 + 1 / 16) / 2)
    assert layer.popularity_recall == pytest.approx(1 / 2)  # the first half is for 0 and, of equals, 1
    assert math.isnan(layer.co_occurrence_recall)
    assert math.isnan(layer.next_gate_recall)


def test_a_layer_that_follows_from_the_one_before() -> None:
    """Each expert has its successor; popularity knows nothing of it."""
    random = np.random.default_rng(0)
    first = np.array([random.permutation(EXPERTS)[:K] for _ in range(200)])
    _, second = layer_statistics(trace(np.stack([first, (first + 1) % EXPERTS], axis=1)))
    assert second.co_occurrence_recall == 1.0
    assert second.popularity_recall == pytest.approx(0.5, abs=0.1)


def test_the_next_gate() -> None:
    inputs = np.eye(EXPERTS, dtype=np.float16)[:, None].repeat(2, axis=1)
    gates = np.stack([np.eye(EXPERTS), np.roll(np.eye(EXPERTS), 1, axis=0)]).astype(np.float32)
    experts = np.stack([np.arange(EXPERTS), (np.arange(EXPERTS) + 1) % EXPERTS], axis=1)[:, :, None]
    first, second = layer_statistics(trace(experts, gate_inputs=inputs, gates=gates))
    assert math.isnan(first.next_gate_recall)
    assert second.next_gate_recall == 1.0


def test_one_token_has_no_neighbour() -> None:
    (layer,) = layer_statistics(trace([[[0, 1]]]))
    assert math.isnan(layer.overlap)


def test_one_token_has_no_past_to_be_foreseen_from() -> None:
    for layer in layer_statistics(trace([[[0, 1], [2, 3]]])):
        assert math.isnan(layer.popularity_recall)
        assert math.isnan(layer.co_occurrence_recall)
