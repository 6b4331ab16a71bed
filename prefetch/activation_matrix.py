"""The experts that an earlier request chose whose path was like this one's."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prefetch.base import Prediction
from prefetch.calibration import Calibration
from prefetch.expert_predictor import ExpertPredictor, Routing
from tiers.block import BlockKey, ExpertKey

Floats = NDArray[np.float64]

_EPSILON = 1e-3


class ActivationMatrixPredictor(ExpertPredictor):
    """MoE-Infinity (arXiv 2401.14361): an expert activation matrix for each request, and a bounded collection of them.

    The matrix [layers, experts] counts the tokens of the request that chose each expert. The stored one that is nearest
    to the current one by the cosine, over the layers whose choice is known, stands for what is to come. Before any
    request has ended that is the current one itself. Among all layers ahead the ``most`` experts are named that have
    the highest priority (ratio + eps) * (1 - (layer - current) / (layers + 1)), where the ratio is the share of the
    expert in the counts of its layer.

    A request begins with the pass at position 0; sequences that run as one batch share one matrix. When ``max_stored``
    are stored, a new one replaces the one that is most like it.
    """

    def __init__(self, keys: Sequence[Sequence[ExpertKey]], most: int, max_stored: int = 128) -> None:
        self._keys = keys
        self._most = most
        self._max_stored = max_stored
        shape = (len(keys), max((len(layer) for layer in keys), default=0))
        self._current = np.zeros(shape)
        self._stored = np.zeros((0, *shape))
        self._is_many = False
        self.calibration = Calibration()
        """Kinds: (whether there were many tokens, layers ahead, rank among those of the layer)."""

    @property
    def num_stored(self) -> int:
        return len(self._stored)

    def begin(self, tokens: NDArray[np.int64], position: int) -> None:
        self.calibration.forget()
        self._is_many = tokens.size > 1
        if position == 0 and self._current.any():
            self._store(self._current)
            self._current = np.zeros_like(self._current)

    def observe(self, routing: Routing) -> None:
        self.calibration.settle(routing)
        size = len(self._keys[routing.layer])
        counts = np.bincount(routing.experts[routing.experts < size], minlength=size)
        self._current[routing.layer, :size] += counts

    def predict(self, step: int) -> list[Prediction[BlockKey]]:
        """The nearest layer first, and of each the highest ratio."""
        matrix = self._nearest()[step + 1 :]
        totals = matrix.sum(axis=1, keepdims=True)
        ratios = np.divide(matrix, totals, out=np.zeros_like(matrix), where=totals > 0)
        distance = np.arange(1, len(matrix) + 1)[:, None]
        priority = np.where(ratios > 0, (ratios + _EPSILON) * (1 - distance / (len(self._keys) + 1)), 0.0)
        order = np.argsort(-priority, axis=None, kind="stable")[: min(self._most, np.count_nonzero(priority))]
        chosen: dict[int, list[ExpertKey]] = {}
        for ahead, expert in zip(*np.unravel_index(order, priority.shape), strict=True):
            chosen.setdefault(int(ahead) + 1, []).append(self._keys[step + 1 + int(ahead)][int(expert)])
        predictions: list[Prediction[BlockKey]] = []
        for ahead, keys in sorted(chosen.items()):
            kinds = [(self._is_many, ahead, rank) for rank in range(len(keys))]
            predictions += self.calibration.guess(keys, kinds, ahead)
        return predictions

    def _nearest(self) -> Floats:
        if not len(self._stored):
            return self._current
        is_known = self._current.any(axis=1)
        nearest: Floats = self._stored[_cosines(self._stored[:, is_known], self._current[is_known]).argmax()]
        return nearest

    def _store(self, matrix: Floats) -> None:
        if len(self._stored) < self._max_stored:
            self._stored = np.concatenate([self._stored, matrix[None]])
        elif self._max_stored:
            self._stored[_cosines(self._stored, matrix).argmax()] = matrix


def _cosines(stored: Floats, matrix: Floats) -> Floats:
    """[stored, layers, experts], [layers, experts] -> [stored]; 0 where nothing is known."""
    rows, row = stored.reshape(len(stored), -1), matrix.ravel()
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(row)
    cosines: Floats = np.divide(rows @ row, norms, out=np.zeros(len(rows)), where=norms > 0)
    return cosines
