"""A predictor that holds its tongue while a prompt is taken."""

import numpy as np
from numpy.typing import NDArray

from prefetch.base import Prediction
from prefetch.expert_predictor import ExpertPredictor, Routing
from tiers.block import BlockKey


class DecodeOnly(ExpertPredictor):
    """``predictor`` in the steps of single tokens, nothing in passes of more.

    A prompt visits most experts. To name them all would fetch them in full before it is known which of them may come in
    a lower precision, and it is bytes that a prompt waits for, not the moment at which they are asked for.
    """

    def __init__(self, predictor: ExpertPredictor) -> None:
        self._predictor = predictor
        self._is_prompt = False

    def begin(self, tokens: NDArray[np.int64], position: int) -> None:
        self._is_prompt = tokens.shape[1] > 1
        self._predictor.begin(tokens, position)

    def observe(self, routing: Routing) -> None:
        self._predictor.observe(routing)

    def predict(self, step: int) -> list[Prediction[BlockKey]]:
        return [] if self._is_prompt else self._predictor.predict(step)
