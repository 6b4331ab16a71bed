"""The predictor that is never wrong, for it knows a recorded run: the bound of what prefetching can do."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prefetch.base import Prediction
from prefetch.expert_predictor import ExpertPredictor
from tiers.block import BlockKey


class OraclePredictor(ExpertPredictor):
    """Names with certainty what the next ``lookahead`` visits need, also those of the passes to come.

    ``passes`` holds for every pass, in the order in which they begin, the experts that each layer needs; ``layers`` are
    the indices of those layers. A pass takes as many steps as the last of them says.
    """

    def __init__(
        self, passes: Sequence[Sequence[Sequence[BlockKey]]], layers: Sequence[int], lookahead: int = 1
    ) -> None:
        self._visits = [visit for one in passes for visit in one]
        self._layers = layers
        self._lookahead = lookahead
        self._span = max(layers, default=0) + 1
        self._place = {layer: i for i, layer in enumerate(layers)}
        self._pass = -1

    def begin(self, tokens: NDArray[np.int64], position: int) -> None:
        self._pass += 1

    def predict(self, step: int) -> list[Prediction[BlockKey]]:
        now = max(self._pass, 0) * len(self._layers) + self._place[step]
        predictions: list[Prediction[BlockKey]] = []
        for at in range(now + 1, min(now + 1 + self._lookahead, len(self._visits))):
            later, place = divmod(at, len(self._layers))
            steps = (later - max(self._pass, 0)) * self._span + self._layers[place] - step
            predictions.append(Prediction(self._visits[at], 1.0, steps))
        return predictions
