import numpy as np

from prefetch.decode_only import DecodeOnly
from prefetch.expert_predictor import ExpertPredictor
from prefetch.next_gate import NextGatePredictor
from simulators.expert_trace import ExpertTrace
from simulators.expert_visits import keys_of, passes_of, routings_of, tokens_of
from tests.contracts.expert_predictor import TOP_K, ExpertPredictorContract, trace

__all__ = ["trace"]


class TestDecodeOnly(ExpertPredictorContract):
    lookahead = 1
    least_accuracy = 0.6

    def make(self, trace: ExpertTrace) -> ExpertPredictor:
        return DecodeOnly(NextGatePredictor(list(trace.gates), keys_of(trace), TOP_K))

    def test_says_nothing_of_prompts(self, trace: ExpertTrace) -> None:
        """Though it listens to them."""
        quiet, other = self.make(trace), NextGatePredictor(list(trace.gates), keys_of(trace), TOP_K)
        said = {True: 0, False: 0}
        for one in passes_of(trace):
            for predictor in (quiet, other):
                predictor.begin(tokens_of(trace, one), one.position)
            is_prompt = tokens_of(trace, one).shape[1] > 1
            for routing in routings_of(trace, one):
                quiet.observe(routing)
                other.observe(routing)
                found, expected = quiet.predict(routing.layer), other.predict(routing.layer)
                assert found == ([] if is_prompt else expected)
                said[is_prompt] += len(expected)
        assert np.all(list(said.values()))
