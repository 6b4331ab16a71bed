"""The key whose next use is expected to be farthest away, for keys that are drawn anew in each pass through a loop."""

from collections.abc import Callable

import numpy as np

from tiers.eviction.base import K
from tiers.eviction.forecasting import ForecastingPolicy
from tiers.eviction.scored import Floats, Rows
from tiers.eviction.spaced import layer_of
from tiers.eviction.use_odds import UseOdds

_GHOSTS = 4
"""Keys that left and are remembered, for each slot."""


class ExpectedUsePolicy(ForecastingPolicy[K]):
    """For the experts of a mixture: every token passes through all layers, and a router draws some of each.

    A key that is drawn with the probability p is expected to be drawn again after 1/p passes, and not before its layer
    comes round. So the one to go has the largest sum of 1/p - 1 passes and of the part of a pass until its layer. p is
    learned from what was drawn lately and at all (``UseOdds``). LFU knows the latter alone, LRU the former, and neither
    where in its loop the model is. The draws of keys that left are remembered: what is drawn again is no newcomer.

    What a forecast says of a pass counts for that pass instead of p.
    """

    def __init__(self, capacity: int, layer_of: Callable[[K], int] = layer_of) -> None:
        super().__init__(capacity, layer_of)
        self._odds: UseOdds[K] = UseOdds()
        self._passes = np.zeros(capacity + 1)
        """Until the next use of each key, beyond the next pass through its layer. The last is nobody's."""
        self._drawn: dict[K, int] = {}
        """The keys of the visit under way, with their columns in the odds."""
        self._ghosts: dict[K, int] = {}
        """Keys that left, with their layers."""
        self._rows_of: dict[int, Rows] = {}
        """For each layer the rows of its keys, by column; -1, which is the last, where there is none."""
        self._columns = np.zeros(capacity, np.int64)

    def _worth(self) -> Floats:
        passes = self._passes[:-1]
        if self._expected:
            rows = np.flatnonzero(self._probability)
            passes = passes.copy()
            later = (self._steps[rows] - 1) // self._span
            passes[rows] = (1.0 - self._probability[rows]) * (1.0 + passes[rows]) + later
        return -(passes + self._until_layer())

    def _enter(self, key: K, row: int) -> None:
        super()._enter(key, row)
        layer = int(self._layers[row])
        self._ghosts.pop(key, None)
        column = self._columns[row] = self._odds.add(layer, key)
        rows = self._rows_of.get(layer, np.empty(0, np.int64))
        if column >= rows.size:
            rows = self._rows_of[layer] = np.pad(rows, (0, column + 8), constant_values=-1)
        rows[column] = row
        self._passes[row] = 0.0

    def _use(self, key: K, row: int) -> None:
        self._drawn[key] = int(self._columns[row])

    def _leave(self, key: K, row: int, *, is_evicted: bool) -> None:
        layer = int(self._layers[row])
        self._rows_of[layer][self._columns[row]] = -1
        if not is_evicted:
            self._drawn.pop(key, None)
            self._odds.forget(layer, key)
            return
        self._ghosts[key] = layer
        if len(self._ghosts) > _GHOSTS * self.capacity:
            oldest = next(iter(self._ghosts))
            self._odds.forget(self._ghosts.pop(oldest), oldest)
            self._drawn.pop(oldest, None)

    def _begin_visit(self, layer: int) -> None:
        if self._drawn:
            drawn, self._drawn = self._drawn, {}
            before = self._layer_of(next(iter(drawn)))
            passes = self._odds.learn(before, drawn.values())
            rows = self._rows_of[before][: passes.size]
            self._passes[rows] = passes[: rows.size]
