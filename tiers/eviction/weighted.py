"""HOBBIT's eviction: recency, frequency, the share of high precision and the distance of the layer, weighed."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tiers.eviction.base import K
from tiers.eviction.scored import Floats, ScoredPolicy
from tiers.eviction.spaced import layer_of


class Weights(NamedTuple):
    """What each term counts for; together 1."""

    recency: float = 0.25
    frequency: float = 0.4
    high_precision: float = 0.05
    layer: float = 0.3


class WeightedPolicy(ScoredPolicy[K]):
    """Evicts the lowest of w . (R/T, F/T, H/T, 1 - d/l), arXiv 2411.01433.

    T counts the passes, R is the pass of the last use, F the number of uses, H the number of those in high precision
    (``is_high``), d how many layers ahead the layer of the key is, of l: the nearest is worth most. R, F and H start
    anew when a key comes in, T with the first key. The paper calibrates the weights for each model; the default ones
    here are not calibrated for any.
    """

    def __init__(
        self,
        capacity: int,
        layer_of: Callable[[K], int] = layer_of,
        weights: Weights | None = None,
        is_high: Callable[[K], bool] = lambda _: True,
    ) -> None:
        super().__init__(capacity, layer_of)
        self._weights = weights or Weights()
        self._is_high = is_high
        self._passes = 1
        self._first_layer: int | None = None
        self._last_pass = np.zeros(capacity)
        self._frequency = np.zeros(capacity)
        self._high = np.zeros(capacity)

    def _worth(self) -> Floats:
        recency, frequency, high, layer = self._weights
        counted = recency * self._last_pass + frequency * self._frequency + high * self._high
        return counted / self._passes + layer * (1 - self._until_layer())

    def _enter(self, key: K, row: int) -> None:
        self._last_pass[row] = self._frequency[row] = self._high[row] = 0

    def _use(self, key: K, row: int) -> None:
        self._last_pass[row] = self._passes
        self._frequency[row] += 1
        self._high[row] += self._is_high(key)

    def _leave(self, key: K, row: int, *, is_evicted: bool) -> None:
        if not self._rows and not is_evicted:
            self._passes, self._first_layer = 1, None

    def _begin_visit(self, layer: int) -> None:
        if self._first_layer is None or layer < self._first_layer:
            self._first_layer = layer
        elif layer == self._first_layer:
            self._passes += 1
