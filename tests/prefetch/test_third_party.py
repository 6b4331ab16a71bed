"""A predictor of somebody else's, in a file that we do not know."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from offload.config import load_config
from prefetch.base import Prediction
from prefetch.third_party import SupervisedPredictor, find_predictor
from simulators.expert_trace import ExpertTrace
from simulators.expert_visits import keys_of, passes_of, routing_at
from simulators.routing_generator import RoutingShape, generate_routing
from tests.contracts.expert_predictor import ExpertPredictorContract, trace
from tiers.block import ExpertKey
from tiers.errors import InvalidOptionError, PolicyError

__all__ = ["trace"]  # the contract's fixture

KEYS = [[ExpertKey(layer, expert, "stored") for expert in range(4)] for layer in range(2)]
GATES = {1: np.ones((4, 3), np.float32)}
MINE = """
from collections import namedtuple

Guess = namedtuple("Guess", "keys probability needed_in_steps")

class Mine:
    '''The first of the next layer, and nothing known of this project.'''
    def __init__(self, keys, top_k):
        self.keys, self.top_k = keys, top_k
    def predict(self, step):
        return [Guess(self.keys[step + 1][: self.top_k], 1, 1)] if step + 1 < len(self.keys) else []

class WithGates(Mine):
    def __init__(self, keys, top_k, gates):
        super().__init__(keys, top_k)
        self.shapes = [gate.shape for gate in gates]
    def predict(self, step):
        assert self.shapes == [(0, 0), (4, 3)], self.shapes
        return ()

class Sized(Mine):
    def __init__(self, keys, top_k, window):
        super().__init__(keys, top_k)

class Half:
    def observe(self, routing): ...

class Failing(Mine):
    def predict(self, step):
        return self.no_such(
            step)

class Clumsy(Mine):
    def observe(self, routing):
        raise ValueError("what?")

class Late(Mine):
    def begin(self, tokens, position):
        raise ValueError

class NoList(Mine):
    def predict(self, step): ...

class Bare(Mine):
    def predict(self, step):
        return self.keys[1]

class Number(Mine):
    def predict(self, step):
        return [Guess([1], 0.5, 1)]

class NoKeys(Mine):
    def predict(self, step):
        return [Guess(self.keys[1][0], 0.5, 1)]

class Stranger(Mine):
    def predict(self, step):
        return [Guess([self.keys[1][0]._replace(expert=9)], 0.5, 1)]

class Sure(Mine):
    def predict(self, step):
        return [Guess(self.keys[1], 1.5, 1)]

class Vague(Mine):
    def predict(self, step):
        return [Guess(self.keys[1], float("nan"), 1)]

class Past(Mine):
    def predict(self, step):
        return [Guess(self.keys[1], 0.5, 0)]
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "a_predictor_of_mine.py").write_text(MINE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield "a_predictor_of_mine"
    sys.modules.pop("a_predictor_of_mine", None)


def make(name: str) -> SupervisedPredictor:
    return SupervisedPredictor(f"a_predictor_of_mine:{name}", KEYS, 2, lambda: GATES)


def test_a_class_with_predict_is_a_predictor(module: str) -> None:
    predictor = make("Mine")
    predictor.begin(np.zeros((1, 1), np.int64), 0)
    assert predictor.predict(0) == [Prediction(tuple(KEYS[1][:2]), 1.0, 1)]
    assert predictor.predict(1) == []
    assert make("WithGates").predict(0) == []


def test_a_run_takes_its_name(module: str) -> None:
    assert load_config({"predictor": f"{module}:Mine"}).predictor == f"{module}:Mine"
    with pytest.raises(InvalidOptionError, match="did you mean 'Mine'"):
        load_config({"predictor": f"{module}:Min"})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a_predictor_of_mine:Min", "the module has no class 'Min'; did you mean 'Mine'?"),
        ("a_predictor_of_mine:Half", "is no predictor of experts: it has no predict"),
        ("prefetch.expert_predictor:ExpertPredictor", "is no predictor of experts: it has no predict"),
        ("no_such_module:Mine", "No module named 'no_such_module'; write the module's file into this directory"),
        ("a_predictor_of_mine:", "names no predictor; write my_module:MyPredictor"),
    ],
)
def test_what_is_no_predictor(module: str, name: str, message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message) as error:
        find_predictor(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Failing", "predict raised AttributeError: .* 'no_such' in a_predictor_of_mine.py:30; --debug"),
        ("Clumsy", r"observe raised ValueError: what\? in a_predictor_of_mine.py:35"),
        ("Late", "begin raised ValueError in a_predictor_of_mine.py:39"),
        ("Sized", "__init__ raised TypeError: .*'window'; it must be made with keys and top_k, and with gates"),
        ("NoList", r"predict\(0\) gave None; it must give a list of Predictions"),
        ("Bare", r"predict\(0\) gave ExpertKey.*, which has no keys, probability, needed_in_steps"),
        ("NoKeys", r"predict\(0\) gave the keys ExpertKey.*; they must be a list"),
        ("Number", r"predict\(0\) gave 1, which is no expert of this model"),
        ("Stranger", r"predict\(0\) gave ExpertKey.*expert=9.*, which is no expert of this model"),
        ("Sure", r"predict\(0\) gave the probability 1.5; it must be from 0 to 1"),
        ("Vague", r"predict\(0\) gave the probability nan; it must be from 0 to 1"),
        ("Past", r"predict\(0\) gave needed_in_steps 0; it must be a whole number from 1 up"),
    ],
)
def test_names_what_is_wrong(module: str, name: str, message: str) -> None:
    with pytest.raises(PolicyError, match=f"'{module}:{name}' is no predictor of experts: {message}") as error:
        work(name)
    assert "\n" not in str(error.value)


def work(name: str) -> None:
    predictor = make(name)
    predictor.begin(np.zeros((1, 1), np.int64), 0)
    trace = generate_routing([(1, 1)], 2, 4, 2, shape=RoutingShape(skew=0.5))
    predictor.observe(routing_at(trace, passes_of(trace)[0], 0))
    predictor.predict(0)


class TestOneOfOurs(ExpertPredictorContract):
    """A supervised predictor is as good as what it supervises."""

    def make(self, trace: ExpertTrace) -> SupervisedPredictor:
        return SupervisedPredictor("prefetch.popularity:PopularityPredictor", keys_of(trace), 4, dict)
