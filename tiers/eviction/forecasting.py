"""Policies that are told what is expected to be used."""

from collections.abc import Callable, Iterable

import numpy as np

from tiers.eviction.base import Expected, K
from tiers.eviction.scored import ScoredPolicy
from tiers.eviction.spaced import layer_of

_NOTHING = Expected(0.0, 0)


class ForecastingPolicy(ScoredPolicy[K]):
    """Keeps, beside the numbers of ScoredPolicy, what the last forecast says of each resident key."""

    def __init__(self, capacity: int, layer_of: Callable[[K], int] = layer_of) -> None:
        super().__init__(capacity, layer_of)
        self._expected: dict[K, Expected] = {}
        self._probability = np.zeros(capacity)
        """0 for what is not expected."""
        self._steps = np.zeros(capacity)

    def forecast(self, step: int, expected: Iterable[tuple[K, Expected]]) -> None:
        """See EvictionPolicy."""
        self._expected = {}
        for key, use in expected:
            known = self._expected.get(key)
            if known is None or use.steps < known.steps:
                self._expected[key] = use
        self._probability[:] = 0.0
        for key, use in self._expected.items():
            row = self._rows.get(key)
            if row is not None:
                self._probability[row], self._steps[row] = use

    def insert_ahead(self, key: K, cost: float = 1.0) -> None:
        """See EvictionPolicy."""
        self._place(key)

    def _enter(self, key: K, row: int) -> None:
        self._probability[row], self._steps[row] = self._expected.get(key, _NOTHING)
