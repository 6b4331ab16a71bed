import pytest

from prefetch.base import Prediction
from prefetch.next_layer import NextLayerPredictor
from tiers.block import BlockKey, KVBlockKey, WeightGroupKey
from tiers.errors import InvalidOptionError

LAYERS = [["embed"], ["q0", "k0"], [], ["head"]]


def make(lookahead: int) -> NextLayerPredictor[str]:
    return NextLayerPredictor(LAYERS.__getitem__, len(LAYERS), lookahead)


def test_names_the_next_steps_soonest_first() -> None:
    assert make(1).predict(0) == [Prediction(["q0", "k0"], 1.0, 1)]
    assert make(3).predict(0) == [
        Prediction(["q0", "k0"], 1.0, 1),
        Prediction([], 1.0, 2),
        Prediction(["head"], 1.0, 3),
    ]


def test_the_next_token_follows_the_last_layer() -> None:
    assert make(2).predict(3) == [Prediction(["embed"], 1.0, 1), Prediction(["q0", "k0"], 1.0, 2)]


def test_a_lookahead_of_nothing_predicts_nothing() -> None:
    assert make(0).predict(1) == []


def test_a_lookahead_beyond_the_cycle_names_each_key_once() -> None:
    """The last prediction is of the step that runs now, one whole cycle away."""
    predictions = make(100).predict(1)
    found = [(p.keys, p.needed_in_steps) for p in predictions]
    assert found == [([], 1), (["head"], 2), (["embed"], 3), (["q0", "k0"], 4)]


def test_asks_for_the_keys_anew() -> None:
    """The KV blocks of a layer grow with the sequence."""
    blocks: list[BlockKey] = [WeightGroupKey("layer.0")]
    predictor = NextLayerPredictor(lambda _: blocks, 1, 1)
    assert [list(p.keys) for p in predictor.predict(0)] == [[WeightGroupKey("layer.0")]]
    blocks.append(KVBlockKey(0, 0, 0))
    assert [list(p.keys) for p in predictor.predict(0)] == [[WeightGroupKey("layer.0"), KVBlockKey(0, 0, 0)]]


@pytest.mark.parametrize(("num_steps", "lookahead", "value"), [(0, 1, "0 steps"), (4, -1, "-1 steps")])
def test_refuses_what_makes_no_schedule(num_steps: int, lookahead: int, value: str) -> None:
    with pytest.raises(InvalidOptionError, match=value):
        NextLayerPredictor(LAYERS.__getitem__, num_steps, lookahead)
