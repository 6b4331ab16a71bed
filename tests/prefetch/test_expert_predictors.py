"""The contract of all predictors of experts, and what each of them adds to it."""

import numpy as np
import pytest
from numpy.typing import NDArray

from prefetch.activation_matrix import ActivationMatrixPredictor
from prefetch.expert_predictor import ExpertPredictor, Routing
from prefetch.next_gate import NextGatePredictor
from prefetch.oracle import OraclePredictor
from prefetch.path import PathPredictor
from prefetch.popularity import PopularityPredictor
from simulators.expert_trace import ExpertTrace
from simulators.expert_visits import keys_of, passes_of
from tests.contracts.expert_predictor import LAYERS, TOP_K, ExpertPredictorContract, trace
from tiers.block import ExpertKey
from tiers.errors import InvalidOptionError

__all__ = ["trace"]

KEYS = [[ExpertKey(layer, expert, "stored") for expert in range(4)] for layer in range(3)]
ONE = np.zeros((1, 1), np.int64)


def routing(layer: int, *experts: int, tokens: int = 1) -> Routing:
    """Every token chooses the same."""
    chosen = np.array([experts] * tokens, np.int64)
    return Routing(layer, np.zeros((tokens, 0), np.float32), chosen, np.ones(chosen.shape, np.float32))


class TestPopularity(ExpertPredictorContract):
    def make(self, trace: ExpertTrace) -> ExpertPredictor:
        return PopularityPredictor(keys_of(trace), TOP_K)


class TestActivationMatrix(ExpertPredictorContract):
    lookahead = LAYERS

    def make(self, trace: ExpertTrace) -> ExpertPredictor:
        return ActivationMatrixPredictor(keys_of(trace), 2 * LAYERS * TOP_K)


class TestNextGate(ExpertPredictorContract):
    lookahead = 2
    least_accuracy = 0.6

    def make(self, trace: ExpertTrace) -> ExpertPredictor:
        return NextGatePredictor(list(trace.gates), keys_of(trace), TOP_K, stride=2)


class TestPath(ExpertPredictorContract):
    """Of paths that are right in most places."""

    lookahead = LAYERS
    least_accuracy = 0.6

    def make(self, trace: ExpertTrace) -> ExpertPredictor:
        return PathPredictor(keys_of(trace), NoisyPaths(trace))


class TestExactPath(ExpertPredictorContract):
    lookahead = LAYERS
    least_accuracy = 0.999

    def make(self, trace: ExpertTrace) -> ExpertPredictor:
        return PathPredictor(keys_of(trace), NoisyPaths(trace, noise=0.0), is_exact=True)


class TestOracle(ExpertPredictorContract):
    lookahead = LAYERS + 1
    least_accuracy = 0.999

    def make(self, trace: ExpertTrace) -> ExpertPredictor:
        passes = [one.visits for one in passes_of(trace)]
        return OraclePredictor(passes, trace.layers.tolist(), lookahead=LAYERS + 1)


class NoisyPaths:
    """The true path, but with a certain probability another expert, and always 0.9 sure."""

    def __init__(self, trace: ExpertTrace, noise: float = 0.2) -> None:
        self._random = np.random.default_rng(1)
        self._trace = trace
        self._noise = noise
        self._done = 0

    def __call__(self, tokens: NDArray[np.int64], position: int) -> NDArray[np.float32]:
        experts = self._trace.experts[self._done : self._done + tokens.size].astype(np.int64)
        self._done += tokens.size
        other = self._random.integers(0, self._trace.num_experts, experts.shape)
        experts = np.where(self._random.random(experts.shape) < self._noise, other, experts)
        paths = np.zeros((*experts.shape[:2], self._trace.num_experts), np.float32)
        np.put_along_axis(paths, experts, 0.9 if self._noise else 1.0, axis=2)
        return paths


def test_popularity_from_a_calibration_text() -> None:
    """It does not change, whatever is chosen."""
    counts = [np.array([0.0, 0, 0, 0]), np.array([1.0, 5, 0, 3]), np.array([2.0, 0, 0, 1])]
    predictor = PopularityPredictor(KEYS, 2, counts=counts, lookahead=2)
    predictor.begin(ONE, 0)
    predictor.observe(routing(0, 2))
    expected = [(KEYS[1][1],), (KEYS[1][3],), (KEYS[2][0],), (KEYS[2][3],)]
    assert [prediction.keys for prediction in predictor.predict(0)] == expected
    assert [prediction.needed_in_steps for prediction in predictor.predict(0)] == [1, 1, 2, 2]


def test_masked_choices_are_no_choices() -> None:
    for predictor in (PopularityPredictor(KEYS, 4), ActivationMatrixPredictor(KEYS, 4)):
        predictor.begin(ONE, 0)
        predictor.observe(routing(1, 4, 2))
        assert [prediction.keys for prediction in predictor.predict(0)] == [(KEYS[1][2],)]


def request(predictor: ActivationMatrixPredictor, *path: int) -> None:
    """One pass of a token that takes the same layers' experts as named."""
    predictor.begin(ONE, 0)
    for layer, expert in enumerate(path):
        predictor.observe(routing(layer, expert))


def test_the_nearest_request_is_taken_for_this_one() -> None:
    predictor = ActivationMatrixPredictor(KEYS, 2)
    request(predictor, 0, 1, 1)
    request(predictor, 2, 3, 3)
    predictor.begin(ONE, 0)
    predictor.observe(routing(0, 2))
    assert [prediction.keys for prediction in predictor.predict(0)] == [(KEYS[1][3],), (KEYS[2][3],)]
    assert [prediction.needed_in_steps for prediction in predictor.predict(0)] == [1, 2]


def test_the_most_similar_request_is_replaced() -> None:
    predictor = ActivationMatrixPredictor(KEYS, 2, max_stored=2)
    request(predictor, 0, 1, 1)
    request(predictor, 2, 3, 3)
    request(predictor, 2, 3, 0)
    predictor.begin(ONE, 0)
    assert predictor.num_stored == 2
    predictor.observe(routing(0, 2))
    assert predictor.predict(0)[1].keys == (KEYS[2][0],)


def test_nearer_layers_have_priority() -> None:
    """Of two experts that are as likely, where only one may be named."""
    predictor = ActivationMatrixPredictor(KEYS, 1)
    request(predictor, 0, 1, 1)
    assert [prediction.keys for prediction in predictor.predict(0)] == [(KEYS[1][1],)]


def test_a_pass_needs_what_one_of_its_tokens_needs() -> None:
    paths = np.zeros((2, 3, 4), np.float32)
    paths[:, 1] = [[0.5, 0.0, 0.04, 0.9], [0.5, 0.0, 0.04, 0.0]]
    predictor = PathPredictor(KEYS, lambda tokens, position: paths, is_exact=True)
    predictor.begin(np.zeros((2, 1), np.int64), 0)
    found = predictor.predict(0)
    assert [prediction.keys for prediction in found] == [(KEYS[1][3],), (KEYS[1][0],)]
    assert [prediction.probability for prediction in found] == pytest.approx([0.9, 0.75])
    assert predictor.predict(1) == []


def test_paths_are_relied_on_as_far_as_they_were_right() -> None:
    paths = np.zeros((1, 3, 4), np.float32)
    paths[:, :, 0] = 0.9
    predictor = PathPredictor(KEYS, lambda tokens, position: paths)
    predictor.begin(ONE, 0)
    assert predictor.predict(0)[0].probability == pytest.approx(0.9)
    for _ in range(40):
        predictor.begin(ONE, 1)
        for layer in range(3):
            predictor.observe(routing(layer, layer % 2))
    assert predictor.predict(0)[0].probability == pytest.approx(2 / 3, abs=0.05)


def test_the_oracle_looks_past_the_end_of_a_pass() -> None:
    predictor = OraclePredictor([[[KEYS[0][0]], [KEYS[2][1]]], [[KEYS[0][3]], [KEYS[2][2]]]], [0, 2], lookahead=2)
    predictor.begin(ONE, 0)
    found = predictor.predict(0)
    assert [(list(p.keys), p.needed_in_steps) for p in found] == [([KEYS[2][1]], 2), ([KEYS[0][3]], 3)]
    predictor.begin(ONE, 1)
    assert predictor.predict(2) == []


def test_a_stride_is_at_least_one() -> None:
    with pytest.raises(InvalidOptionError, match="stride of 0"):
        NextGatePredictor([], [], 1, stride=0)
