"""Whole layers that stay, evenly spaced over the model."""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Collection

from tiers.eviction.base import EvictionPolicy, K
from tiers.eviction.choose import evict_first

_BITS = 16


def layer_of(key: object) -> int:
    """The layer that a block belongs to; 0 for blocks of no layer."""
    return getattr(key, "layer", 0)


class SpacedPolicy(EvictionPolicy[K]):
    """For a loop through all layers, such as that of exact attention over the KV cache: once per token.

    MRU hits as often (see there), but comes to keep some neighbouring layers and none of the others. While the former
    are computed the link falls idle, since no more than a few layers are read ahead; for the latter the model waits for
    it. Here layers leave in the order of their bit-reversed index, the largest first (van der Corput's sequence), so
    that those that stay are spread over the loop whatever their number; of one layer the block that was used last goes
    first. Whole layers, since blocks that come and go together lie side by side and are attended to as one.
    """

    def __init__(self, capacity: int, layer_of: Callable[[K], int] = layer_of) -> None:
        super().__init__(capacity)
        self._layer_of = layer_of
        # The keys of each layer, least recently used first.
        self._layers: dict[int, OrderedDict[K, None]] = {}
        # Layers by their place in the sequence, the one that leaves first at the start.
        self._order: list[tuple[int, int]] = []
        self._len = 0

    def insert(self, key: K, cost: float = 1.0) -> None:
        layer = self._layer_of(key)
        if layer not in self._layers:
            self._layers[layer] = OrderedDict()
            self._order.append((-_bit_reversed(layer), layer))
            self._order.sort()
        keys = self._layers[layer]
        if key in keys:
            raise KeyError(key)
        keys[key] = None
        self._len += 1

    def touch(self, key: K) -> None:
        self._layers[self._layer_of(key)].move_to_end(key)

    def remove(self, key: K) -> None:
        del self._layers[self._layer_of(key)][key]
        self._len -= 1

    def evict(self, n: int, protected: Collection[K] = ()) -> list[K]:
        victims_first = itertools.chain.from_iterable(reversed(self._layers[layer]) for _, layer in self._order)
        return evict_first(self, victims_first, n, protected)

    def __contains__(self, key: object) -> bool:
        return key in self._layers.get(self._layer_of(key), ())  # type: ignore[arg-type]  # the seam says object

    def __len__(self) -> int:
        return self._len


def _bit_reversed(index: int) -> int:
    return int(format(index % 2**_BITS, f"0{_BITS}b")[::-1], 2)
