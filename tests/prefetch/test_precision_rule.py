import numpy as np

from prefetch.expert_predictor import Routing
from prefetch.miss_precision import least_popular
from prefetch.precision_rule import PrecisionRule

MASKED = 8


def rule_for(tokens_per_sequence: int, experts: list[list[int]], weights: list[list[float]]) -> PrecisionRule:
    rule = PrecisionRule()
    sequences = len(experts) // tokens_per_sequence
    rule.begin(np.zeros((sequences, tokens_per_sequence), np.int64), 5)
    gate_input = np.zeros((len(experts), 0), np.float32)
    rule.observe(Routing(3, gate_input, np.array(experts), np.array(weights, np.float32)))
    return rule


def test_a_token_goes_by_the_weights_of_its_gate() -> None:
    rule = rule_for(1, [[5, 2, 7]], [[0.5, 0.2, 0.3]])
    assert rule.spared(3) == {2}
    assert rule.spared(4) == set()


def test_an_expert_that_one_of_the_sequences_needs_exactly_is_exact() -> None:
    """Expert 1 comes last for the first sequence, and first for the second."""
    assert rule_for(1, [[0, 1], [1, 2]], [[0.8, 0.2], [0.7, 0.3]]).spared(3) == {2}


def test_a_prompt_goes_by_popularity() -> None:
    experts = [[0, 1], [0, 1], [0, 2], [0, 3], [0, MASKED]]
    rule = rule_for(5, experts, [[0.5, 0.5]] * 5)
    assert rule.spared(3) >= {2, 3}
    assert not rule.spared(3) & {0, 1}


def test_what_was_said_of_a_pass_ends_with_it() -> None:
    rule = rule_for(1, [[0, 1]], [[0.8, 0.2]])
    rule.begin(np.zeros((1, 1), np.int64), 6)
    assert rule.spared(3) == set()


def test_the_least_popular_hold_at_most_their_share() -> None:
    assert least_popular(np.array([10, 1, 10, 2, 5, 5])).tolist() == [1, 3, 4]
    assert least_popular(np.array([1, 1]), 0.4).tolist() == []
    assert least_popular(np.array([0, 0])).tolist() == [0, 1]
