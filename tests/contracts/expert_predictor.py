"""What every predictor of experts owes its caller, however it guesses."""

from abc import ABC, abstractmethod

import numpy as np
import pytest

from prefetch.expert_predictor import ExpertPredictor
from simulators.expert_trace import ExpertTrace
from simulators.expert_visits import keys_of, passes_of, routings_of, tokens_of
from simulators.prediction_score import PredictionScore
from simulators.routing_generator import RoutingShape, generate_routing

LAYERS, EXPERTS, TOP_K = 6, 16, 4
CHANCE = TOP_K / EXPERTS


@pytest.fixture(scope="module")
def trace() -> ExpertTrace:
    """Routing with popularity, locality, topics and layers that are alike, so that everybody can be right."""
    shape = RoutingShape(skew=0.4, locality=0.6, continuity=0.95, topic=0.3)
    return generate_routing([(24, 40), (16, 40), (1, 30)], LAYERS, EXPERTS, TOP_K, shape=shape, seed=5)


class ExpertPredictorContract(ABC):
    """Inherit, name the class ``Test...`` and supply ``make``."""

    lookahead = 1
    """How many layers ahead it may look at most."""
    least_accuracy = 1.3 * CHANCE

    @abstractmethod
    def make(self, trace: ExpertTrace) -> ExpertPredictor:
        """A predictor for the model of a trace, which knows nothing of the trace but what its kind has to know."""

    def test_names_experts_of_layers_ahead(self, trace: ExpertTrace) -> None:
        """In order of their need, each with a probability."""
        predictor, keys = self.make(trace), keys_of(trace)
        for one in passes_of(trace)[:12]:
            predictor.begin(tokens_of(trace, one), one.position)
            for routing in routings_of(trace, one):
                predictor.observe(routing)
                predictions = predictor.predict(routing.layer)
                assert all(0.0 <= prediction.probability <= 1.0 for prediction in predictions)
                assert all(1 <= prediction.needed_in_steps <= self.lookahead for prediction in predictions)
                for prediction in predictions:
                    layer = (routing.layer + prediction.needed_in_steps) % LAYERS
                    assert set(prediction.keys) <= set(keys[layer])
                named = [key for prediction in predictions for key in prediction.keys]
                assert len(set(named)) == len(named) or self.lookahead > LAYERS
                steps = [prediction.needed_in_steps for prediction in predictions]
                assert steps == sorted(steps)

    def test_knows_more_than_chance(self, trace: ExpertTrace) -> None:
        assert self.score(trace).accuracy > self.least_accuracy

    def test_says_how_sure_it_is(self, trace: ExpertTrace) -> None:
        """What is said to be surer comes true more often."""
        predictor = self.make(trace)
        outcomes: list[tuple[float, bool]] = []
        for one in passes_of(trace):
            predictor.begin(tokens_of(trace, one), one.position)
            named: dict[object, float] = {}
            for visit, routing in zip(one.visits, routings_of(trace, one), strict=True):
                if one.is_decode:
                    outcomes += [(p, key in visit) for key, p in named.items()]
                predictor.observe(routing)
                nearest = [p for p in predictor.predict(routing.layer) if p.needed_in_steps == 1]
                named = {key: p.probability for p in nearest for key in p.keys}
        said, came = np.array(outcomes[len(outcomes) // 3 :]).T
        assert abs(said.mean() - came.mean()) < 0.12

    def test_same_history_same_predictions(self, trace: ExpertTrace) -> None:
        one, other = self.make(trace), self.make(trace)
        for each in passes_of(trace)[:4]:
            for predictor in (one, other):
                predictor.begin(tokens_of(trace, each), each.position)
            for routing in routings_of(trace, each):
                one.observe(routing)
                other.observe(routing)
                assert one.predict(routing.layer) == other.predict(routing.layer)

    def test_predicts_nothing_before_it_knows_anything(self, trace: ExpertTrace) -> None:
        """Nor does it fail where nothing was recorded of what gates were given."""
        predictor = self.make(trace)
        for one in passes_of(trace)[:2]:
            predictor.begin(tokens_of(trace, one), one.position)
            for routing in routings_of(trace, one):
                bare = type(routing)(routing.layer, routing.gate_input[:, :0], routing.experts, routing.weights)
                predictor.observe(bare)
                predictor.predict(routing.layer)

    def score(self, trace: ExpertTrace) -> PredictionScore:
        predictor, score = self.make(trace), PredictionScore()
        for one in passes_of(trace):
            predictor.begin(tokens_of(trace, one), one.position)
            for visit, routing in zip(one.visits, routings_of(trace, one), strict=True):
                predictor.observe(routing)
                if one.is_decode and routing.layer > 0:
                    score.needed(routing.layer, visit)
                score.predicted(routing.layer, predictor.predict(routing.layer))
        return score
