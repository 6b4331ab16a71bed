"""ExpertFlow's cache: the slots go where the predicted path needs them."""

from collections.abc import Callable, Iterable

import numpy as np

from tiers.eviction.base import Expected, K
from tiers.eviction.forecasting import ForecastingPolicy
from tiers.eviction.scored import Floats
from tiers.eviction.spaced import layer_of


class PLECPolicy(ForecastingPolicy[K]):
    """Predictive locality-aware expert caching, arXiv 2410.17954, from forecasts of the layers ahead.

    First to go is what was predicted for the current layer and not chosen by its gate; then what no forecast names,
    rather of the layers that come round last, so that the slots of a finished layer are the later ones' from there on;
    then what is predicted beyond the share of its layer; last of all the rest, the least probable and the latest first.
    The share of a layer in the slots is that of its predicted demand, the sum of its probabilities, in that of all
    layers; the most probable keys of a layer are within it.
    """

    def __init__(self, capacity: int, layer_of: Callable[[K], int] = layer_of) -> None:
        super().__init__(capacity, layer_of)
        self._within: set[K] = set()
        self._is_within = np.zeros(capacity, np.bool_)
        self._has_come = np.zeros(capacity, np.bool_)
        """Was expected of the layer that is computed now."""

    def forecast(self, step: int, expected: Iterable[tuple[K, Expected]]) -> None:
        self._has_come = (self._probability > 0.0) & (self._layers == step)
        super().forecast(step, expected)
        layers: dict[int, list[tuple[float, K]]] = {}
        for key, use in self._expected.items():
            layers.setdefault(self._layer_of(key), []).append((use.probability, key))
        demands = {layer: sum(probability for probability, _ in keys) for layer, keys in layers.items()}
        total = sum(demands.values())
        self._within = set()
        for layer, keys in layers.items():
            keys.sort(key=lambda pair: -pair[0])
            share = int(self.capacity * demands[layer] / total) if total else 0
            self._within.update(key for _, key in keys[:share])
        self._is_within[:] = False
        self._is_within[[self._rows[key] for key in self._within if key in self._rows]] = True

    def _worth(self) -> Floats:
        is_expected = self._probability > 0.0
        soon = self._probability / (1.0 + self._steps)
        worth = np.where(is_expected, 2.0 + soon, 2.0 - self._until_layer())
        worth[is_expected & self._is_within] += 2.0
        worth[self._has_come & (self._used < self._began) & ~is_expected] = 0.0
        return worth

    def _enter(self, key: K, row: int) -> None:
        super()._enter(key, row)
        self._is_within[row] = key in self._within
        self._has_come[row] = False
