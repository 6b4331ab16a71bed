"""How soon a key of a layer will be used again, learned from the passes through the layer."""

from collections.abc import Collection
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from tiers.eviction.base import K

Floats = NDArray[np.float32]

_RATES = 1 / np.array([[2.0], [8.0], [32.0], [256.0]], np.float32)
"""Weight of the latest pass in each moving average: what is current, what is the topic, what is popular."""
_LEAST = np.float32(0.002)
"""What a pass without a use counts for, and one with a use lacks to 1, so that all odds are finite."""
_LEARNING_RATE = 0.02
_MOST_USED = 0.6
"""A pass that uses more of a layer is one of many tokens, and teaches nothing of the odds in one of a single token."""


class UseOdds(Generic[K]):
    """The odds that a key is used in the next pass through its layer.

    For each key there are moving averages of its uses, over a few passes and over many. What they are worth is learned
    by logistic regression on their log-odds and on whether the latest pass used the key, one step of gradient descent a
    pass: routing may be a matter of popularity, where the longest average says all, or have locality, where the
    shortest ones say more.
    """

    def __init__(self) -> None:
        self._layers: dict[int, _Averages[K]] = {}
        # Of the averages' log-odds, the latest pass, and 1; negative, since it is the odds against that are wanted.
        self._weights = -np.array([1 / len(_RATES)] * len(_RATES) + [0.0, 0.0], np.float32)

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
        """A pass used the keys in these columns. Returns the odds against a use in the next pass, by column.

        That is, with the probability p, 1/p - 1: the passes that will go by before the use is expected.
        """
        averages = self._layers[layer]
        features = averages.features
        latest = np.full(features.shape[1], _LEAST)
        latest[list(used)] = 1 - _LEAST
        if averages.passes and len(used) < _MOST_USED * len(averages.columns):
            # Not by what was returned last: the other layers have taught something since.
            surprise = latest - 1 / (1 + self._against(features))
            self._weights -= features @ (surprise * np.float32(_LEARNING_RATE / latest.size))
        averages.count(latest)
        return self._against(features)

    def _against(self, features: Floats) -> Floats:
        against: Floats = np.exp(np.minimum(self._weights @ features, np.float32(20.0)))
        return against


class _Averages(Generic[K]):
    """Of the keys of one layer, by column: what was counted, and what was made of it after the latest pass."""

    def __init__(self) -> None:
        self.passes = 0
        self.columns: dict[K, int] = {}
        self.values = np.full((len(_RATES), 8), _LEAST)
        self.features = _unused(8)
        self._free: list[int] = []

    def add(self, key: K) -> int:
        if key in self.columns:
            return self.columns[key]
        column = self._free.pop() if self._free else len(self.columns)
        if column == self.values.shape[1]:
            self.values = np.pad(self.values, ((0, 0), (0, column)), constant_values=_LEAST)
            self.features = np.concatenate([self.features, _unused(column)], axis=1)
        self.columns[key] = column
        return column

    def forget(self, key: K) -> None:
        column = self.columns.pop(key)
        self.values[:, column] = _LEAST
        self.features[:, column] = _unused(1)[:, 0]
        self._free.append(column)

    def count(self, latest: Floats) -> None:
        """One more pass. As long as there were few, the averages are plain ones."""
        self.passes += 1
        rates = _RATES if self.passes > 256 else np.maximum(_RATES, np.float32(1 / self.passes))
        self.values += rates * (latest - self.values)
        np.log(self.values / (1 - self.values), out=self.features[:-2])
        self.features[-2] = latest


def _unused(columns: int) -> Floats:
    """The features of keys that no pass has used: [averages + 2, columns]."""
    features = np.full((len(_RATES) + 2, columns), np.log(_LEAST / (1 - _LEAST)))
    features[-2:] = np.array([[_LEAST], [1.0]])
    return features
