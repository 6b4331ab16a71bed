"""Predictors of others: a class in a module of its own, named ``my_module:MyPredictor``, watched at every call."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from prefetch.base import Prediction
from prefetch.expert_predictor import ExpertPredictor, Routing
from tiers.block import BlockKey, ExpertKey
from tiers.errors import InvalidOptionError
from tiers.supervision import Supervision, find_class, missing_methods

_KIND: Final = "predictor of experts"
_CURE: Final = "it must be made with keys and top_k, and with gates if it takes them"
_ATTRIBUTES: Final = ("keys", "probability", "needed_in_steps")

Gates = Callable[[], Mapping[int, NDArray[np.float32]]]


def is_third_party(name: str) -> bool:
    """Whether a predictor's name is that of a class, not one of ours and not a file."""
    return ":" in name and Path(name).suffix != ".npz"


def find_predictor(name: str) -> type[Any]:
    """The class that ``module:Class`` names; the module is one that can be imported, or a file here.

    It need not inherit from ExpertPredictor as long as it has ``predict``. Raises InvalidOptionError, which says what
    is missing.
    """
    found = find_class(name, "predictor", "my_module:MyPredictor")
    missing = missing_methods(found, ("predict",))
    if missing:
        raise InvalidOptionError(f"'{name}' is no {_KIND}: it has no {', '.join(missing)}")
    return found


class SupervisedPredictor(ExpertPredictor):
    """Asks a predictor of the class that ``name`` is of, and takes from it only what a predictor may say.

    It is made with ``keys`` (by layer, those of its experts) and ``top_k`` (how many a token visits) and, if its
    ``__init__`` takes ``gates``, with the weights [experts, hidden] of the layers' gates, which are empty where they
    are not known. Every method raises PolicyError where theirs raises anything or answers wrongly.
    """

    def __init__(self, name: str, keys: Sequence[Sequence[ExpertKey]], top_k: int, gates: Gates) -> None:
        theirs = find_predictor(name)
        named: dict[str, object] = {}
        if "gates" in inspect.signature(theirs).parameters:
            known, empty = gates(), np.empty((0, 0), np.float32)
            named["gates"] = [known.get(layer, empty) for layer in range(len(keys))]
        self._known = {key for layer in keys for key in layer}
        self._watch = Supervision(theirs, name, _KIND, _CURE, keys, top_k, **named)

    def begin(self, tokens: NDArray[np.int64], position: int) -> None:
        if self._watch.has("begin"):
            self._watch.ask("begin", tokens, position)

    def observe(self, routing: Routing) -> None:
        if self._watch.has("observe"):
            self._watch.ask("observe", routing)

    def predict(self, step: int) -> list[Prediction[BlockKey]]:
        given = self._watch.ask("predict", step)
        if not isinstance(given, (list, tuple)):
            raise self._watch.did(f"predict({step}) gave {given!r}; it must give a list of Predictions")
        return [self._checked(one, step) for one in given]

    def _checked(self, one: Any, step: int) -> Prediction[BlockKey]:
        if not all(hasattr(one, attribute) for attribute in _ATTRIBUTES):
            raise self._watch.did(
                f"predict({step}) gave {one!r}, which has no {', '.join(_ATTRIBUTES)}; it must give Predictions"
            )
        keys, probability, steps = one.keys, one.probability, one.needed_in_steps
        if not isinstance(keys, (list, tuple)) or isinstance(keys, ExpertKey):
            raise self._watch.did(f"predict({step}) gave the keys {keys!r}; they must be a list")
        for key in keys:
            if not isinstance(key, ExpertKey) or key not in self._known:
                raise self._watch.did(
                    f"predict({step}) gave {key!r}, which is no expert of this model; it must give some of its keys"
                )
        if not isinstance(probability, (int, float, np.floating)) or not 0 <= probability <= 1:
            raise self._watch.did(f"predict({step}) gave the probability {probability!r}; it must be from 0 to 1")
        if not isinstance(steps, (int, np.integer)) or steps < 1:
            raise self._watch.did(
                f"predict({step}) gave needed_in_steps {steps!r}; it must be a whole number from 1 up"
            )
        return Prediction(tuple(keys), float(probability), int(steps))
