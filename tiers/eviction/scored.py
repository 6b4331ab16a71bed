"""Policies that give every resident key a worth and evict the least."""

from abc import abstractmethod
from collections.abc import Callable, Collection

import numpy as np
from numpy.typing import NDArray

from tiers.eviction.base import EvictionPolicy, K
from tiers.eviction.choose import can_spare
from tiers.eviction.spaced import layer_of

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


class ScoredPolicy(EvictionPolicy[K]):
    """Keeps the numbers of the resident keys in arrays with one row for each; ``_worth`` makes a score of them.

    The one with the least goes first, among equals the one whose last use is oldest. An eviction looks at all rows, in
    numpy: made for hundreds of experts, not for a hundred thousand blocks.

    Time is counted in *visits*: uses of different keys of one layer, one after the other. Where every token passes
    through all layers, the visits of one layer are its passes.
    """

    def __init__(self, capacity: int, layer_of: Callable[[K], int] = layer_of) -> None:
        super().__init__(capacity)
        self._layer_of = layer_of
        self._rows: dict[K, int] = {}
        self._keys: list[K | None] = [None] * capacity
        self._free = list(range(capacity - 1, -1, -1))
        self._used = np.zeros(capacity, np.int64)
        """Number of the last use of the key in each row; unique, but for keys that came ahead of their use."""
        self._layers = np.zeros(capacity, np.int64)
        self._uses = 0
        self._layer = -1
        """That of the last use."""
        self._began = 1
        """Number of the first use of the visit."""
        self._span = 1
        """Number of layers, as far as is known."""
        self._after = np.ones(2)
        """The part of a pass from one layer to the next one, the one after that and so on, twice round."""

    @abstractmethod
    def _worth(self) -> Floats:
        """A new array [capacity]: the more, the longer a key stays. Rows without a key may hold anything.

        May not change anything, nor depend on how many keys were evicted since the last use.
        """

    def _enter(self, key: K, row: int) -> None:
        """A key got ``row``; what the row holds is of another one."""

    def _use(self, key: K, row: int) -> None:
        """A resident key was used: right after ``_enter``, or again."""

    def _leave(self, key: K, row: int, *, is_evicted: bool) -> None:
        """A key is about to leave ``row``. One that was removed, and not evicted, should be forgotten."""

    def _begin_visit(self, layer: int) -> None:
        """The use that is counted next opens a visit of this layer."""

    def insert(self, key: K, cost: float = 1.0) -> None:
        row = self._place(key)
        self._note_use(row)
        self._use(key, row)

    def touch(self, key: K) -> None:
        row = self._rows[key]
        self._note_use(row)
        self._use(key, row)

    def remove(self, key: K) -> None:
        self._take_out(key, is_evicted=False)

    def evict(self, n: int, protected: Collection[K] = ()) -> list[K]:
        if n == 0 or not can_spare(n, protected, self._rows):
            return []
        worth = self._worth()
        worth[self._free] = np.inf
        worth[[self._rows[key] for key in protected if key in self._rows]] = np.inf
        victims: list[K] = []
        while len(victims) < n:
            least = np.flatnonzero(worth == worth.min())
            row = int(least[self._used[least].argmin()] if least.size > 1 else least[0])
            worth[row] = np.inf
            key = self._keys[row]
            assert key is not None
            victims.append(key)
        for key in victims:
            self._take_out(key, is_evicted=True)
        return victims

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def _place(self, key: K) -> int:
        """Give a new key a row."""
        if key in self._rows:
            raise KeyError(key)
        assert self._free, "a tier holds no more keys than it has slots"
        row = self._rows[key] = self._free.pop()
        self._keys[row] = key
        self._layers[row] = layer = self._layer_of(key)
        if layer >= self._span:
            self._span = layer + 1
            self._after = np.tile(np.arange(1, self._span + 1) / self._span, 2)
        self._used[row] = self._began - 1
        self._enter(key, row)
        return row

    def _note_use(self, row: int) -> None:
        layer = int(self._layers[row])
        # A key that is used again although no other layer came between is used by another pass.
        if layer != self._layer or self._used[row] >= self._began:
            self._layer, self._began = layer, self._uses + 1
            self._begin_visit(layer)
        self._uses += 1
        self._used[row] = self._uses

    def _take_out(self, key: K, *, is_evicted: bool) -> None:
        row = self._rows.pop(key)
        self._leave(key, row, is_evicted=is_evicted)
        self._keys[row] = None
        self._free.append(row)

    def _until_layer(self) -> Floats:
        """[capacity] part of a pass until the layer of each key comes round, of (0, 1]; 1 for the current one."""
        return self._after[-(self._layer + 1) % self._span :].take(self._layers)
