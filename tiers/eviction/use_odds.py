"""How soon a key of a layer will be used again, learned from the passes through the layer."""

from collections.abc import Collection
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from tiers.eviction.base import K

Floats = NDArray[np.float64]

_RATES = 1 / np.array([[2.0], [8.0], [32.0], [256.0]])
"""Weight of the latest pass in each moving average: what is current, what is the topic, what is popular."""
_LEAST = 0.002
"""No average counts as closer to 0 or to 1 than this."""
_LEARNING_RATE = 0.02
_MOST_USED = 0.6
"""A pass that uses more of a layer is one of many tokens, and teaches nothing of the odds in one of a single token."""


class UseOdds(Generic[K]):
    """The odds that a key is used in the next pass through its layer.

    For each key there are moving averages of its uses, over a few passes and over many. What they are worth is learned
    by logistic regression on their log-odds, one step of gradient descent a pass: routing may be a matter of
    popularity, where the longest average says all, or have locality, where the shortest ones say more.
    """

    def __init__(self) -> None:
        self._layers: dict[int, _Averages[K]] = {}
        self._weights = np.full(len(_RATES), 1 / len(_RATES))
        self._bias = 0.0

    def add(self, layer: int, key: K) -> int:
        """The column of a key in what ``learn`` returns; the same as before for a key that is known."""
        if layer not in self._layers:
            self._layers[layer] = _Averages()
        return self._layers[layer].add(key)

    def forget(self, layer: int, key: K) -> None:
        """As if the key had never been used; its column may become that of another."""
        self._layers[layer].forget(key)
        if not self._layers[layer].columns:
            del self._layers[layer]

    def learn(self, layer: int, used: Collection[int]) -> Floats:
        """A pass used the keys in these columns. Returns the passes until the next use of each key, by column."""
        averages = self._layers[layer]
        is_used = np.zeros(averages.values.shape[1])
        is_used[list(used)] = 1.0
        if averages.passes and len(used) < _MOST_USED * len(averages.columns):
            log_odds = averages.log_odds()
            surprise = is_used - self._probability(log_odds)
            self._weights += _LEARNING_RATE * (log_odds @ surprise) / surprise.size
            self._bias += _LEARNING_RATE * surprise.mean()
        averages.count(is_used)
        return 1 / self._probability(averages.log_odds()) - 1

    def _probability(self, log_odds: Floats) -> Floats:
        return 1 / (1 + np.exp(-np.clip(self._weights @ log_odds + self._bias, -20.0, 20.0)))


class _Averages(Generic[K]):
    """Of the keys of one layer: ``values`` [averages, columns]."""

    def __init__(self) -> None:
        self.passes = 0
        self.columns: dict[K, int] = {}
        self.values = np.zeros((len(_RATES), 8), np.float32)
        self._free: list[int] = []

    def add(self, key: K) -> int:
        if key in self.columns:
            return self.columns[key]
        column = self._free.pop() if self._free else len(self.columns)
        if column == self.values.shape[1]:
            self.values = np.pad(self.values, ((0, 0), (0, column)))
        self.values[:, column] = 0.0
        self.columns[key] = column
        return column

    def forget(self, key: K) -> None:
        column = self.columns.pop(key)
        self.values[:, column] = 0.0
        self._free.append(column)

    def count(self, is_used: Floats) -> None:
        """One more pass. As long as there were few, the averages are plain ones."""
        self.passes += 1
        rates = np.maximum(_RATES, 1 / self.passes)
        self.values += (rates * (is_used - self.values)).astype(np.float32)

    def log_odds(self) -> Floats:
        """[averages, columns]"""
        shares = np.clip(self.values.astype(np.float64), _LEAST, 1 - _LEAST)
        return np.log(shares / (1 - shares))
