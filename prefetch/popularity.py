"""The experts that are chosen most often, whatever the token."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prefetch.base import Prediction
from prefetch.calibration import Calibration
from prefetch.expert_predictor import ExpertPredictor, Routing
from tiers.block import BlockKey, ExpertKey


class PopularityPredictor(ExpertPredictor):
    """Fiddler's measure (arXiv 2402.07033): how often each expert was chosen on a calibration text.

    ``counts[i]`` [experts] are those of layer i, ``keys[i]`` names its experts; both are empty for a layer without
    experts. Without ``counts`` they are learned from what is observed. ``predict`` names the ``most`` popular experts
    of the next ``lookahead`` layers.
    """

    def __init__(
        self,
        keys: Sequence[Sequence[ExpertKey]],
        most: int,
        *,
        counts: Sequence[NDArray[np.float64]] | None = None,
        lookahead: int = 1,
    ) -> None:
        assert counts is None or len(counts) == len(keys), "counts for every layer, or for none"
        self._keys = keys
        self._most = most
        self._lookahead = lookahead
        self._is_learning = counts is None
        self._counts = [np.zeros(len(layer)) for layer in keys] if counts is None else counts
        self._is_many = False
        self.calibration = Calibration()
        """Kinds: (whether there were many tokens, layer, rank)."""

    def begin(self, tokens: NDArray[np.int64], position: int) -> None:
        self.calibration.forget()
        self._is_many = tokens.size > 1

    def observe(self, routing: Routing) -> None:
        self.calibration.settle(routing)
        if self._is_learning:
            counts = self._counts[routing.layer]
            chosen = routing.experts[routing.experts < counts.size]
            counts += np.bincount(chosen, minlength=counts.size)

    def predict(self, step: int) -> list[Prediction[BlockKey]]:
        ahead = [i for i in range(step + 1, len(self._keys)) if self._counts[i].any()][: self._lookahead]
        predictions: list[Prediction[BlockKey]] = []
        for layer in ahead:
            most = min(self._most, np.count_nonzero(self._counts[layer]))
            popular = np.argsort(-self._counts[layer], kind="stable")[:most].tolist()
            kinds = [(self._is_many, layer, rank) for rank in range(len(popular))]
            predictions += self.calibration.guess([self._keys[layer][i] for i in popular], kinds, layer - step)
        return predictions
