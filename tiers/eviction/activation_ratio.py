"""MoE-Infinity's eviction: what its layer chose often lately stays, and rather in the first layers."""

from collections.abc import Callable

import numpy as np

from tiers.eviction.base import K
from tiers.eviction.scored import Floats, ScoredPolicy
from tiers.eviction.spaced import layer_of

_EPSILON = 1e-3
_WINDOW = 64
"""Passes after which all that was counted is worth half: a policy is not told where a request ends."""


class ActivationRatioPolicy(ScoredPolicy[K]):
    """Evicts the lowest (ratio + eps) * (1 - layer / layers), arXiv 2401.14361.

    ``ratio`` is the share of a layer's choices that fell on the key. First layers are worth more, since there is the
    least time to prefetch them. The choices of keys that left are remembered, for four times as many as there are
    slots.
    """

    def __init__(self, capacity: int, layer_of: Callable[[K], int] = layer_of) -> None:
        super().__init__(capacity, layer_of)
        self._counts = np.zeros(capacity)
        self._ghosts: dict[K, float] = {}
        self._choices = np.zeros(1)
        """Of each layer."""
        self._passes = 0

    def _worth(self) -> Floats:
        ratio = self._counts / np.maximum(self._choices[self._layers], 1.0)
        return (ratio + _EPSILON) * (1 - self._layers / self._span)

    def _enter(self, key: K, row: int) -> None:
        self._counts[row] = self._ghosts.pop(key, 0.0)

    def _use(self, key: K, row: int) -> None:
        self._counts[row] += 1
        self._choices[self._layers[row]] += 1

    def _leave(self, key: K, row: int, *, is_evicted: bool) -> None:
        if not is_evicted:
            self._choices[self._layers[row]] -= self._counts[row]
            return
        self._ghosts[key] = float(self._counts[row])
        while len(self._ghosts) > 4 * self.capacity:
            del self._ghosts[next(iter(self._ghosts))]

    def _begin_visit(self, layer: int) -> None:
        if layer >= len(self._choices):
            self._choices = np.pad(self._choices, (0, layer + 1 - len(self._choices)))
        self._passes += layer == 0
        if self._passes >= _WINDOW:
            self._passes = 0
            self._counts /= 2
            self._choices /= 2
            self._ghosts = {key: count / 2 for key, count in self._ghosts.items()}
