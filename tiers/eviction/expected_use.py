"""The key whose next use is expected to be farthest away, for keys that are drawn anew in each pass through a loop."""

import heapq
import itertools
from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Generic

from tiers.eviction.base import EvictionPolicy, K
from tiers.eviction.spaced import layer_of

_WINDOW = 256
"""Passes after which all that was counted is worth half."""

_Place = tuple[float, int, K]
"""Uses, a number that is unique, so that keys are never compared, and the key."""


@dataclass(slots=True)
class _Layer(Generic[K]):
    """The resident keys of one layer."""

    passes: float = 0.0
    order: list[_Place[K]] = field(default_factory=list)
    """Least used first."""
    places: dict[K, _Place[K]] = field(default_factory=dict)

    def add(self, place: _Place[K]) -> None:
        self.places[place[2]] = place
        insort(self.order, place)

    def take(self, key: K) -> float:
        """Remove a key; returns how often it was used."""
        place = self.places.pop(key)
        del self.order[bisect_left(self.order, place)]
        return place[0]

    def halve(self) -> None:
        self.passes /= 2
        self.order = [(uses / 2, number, key) for uses, number, key in self.order]
        self.places = {place[2]: place for place in self.order}


class ExpectedUsePolicy(EvictionPolicy[K]):
    """For the experts of a mixture: every token passes through all layers, and a router draws some of each.

    An expert that was drawn in a share p of the passes through its layer is expected to be drawn again after 1/p of
    them, and not before its layer comes round. So the one to go has the largest sum of 1/p - 1 passes and of the part
    of a pass until its layer. LFU knows the first term alone; LRU goes by the last draw, which says little. The uses of
    keys that left are remembered, for four times as many as there are slots: what is drawn again after it left is no
    newcomer.
    """

    def __init__(self, capacity: int, layer_of: Callable[[K], int] = layer_of) -> None:
        super().__init__(capacity)
        self._layer_of = layer_of
        self._layers: dict[int, _Layer[K]] = {}
        self._current = -1
        self._numbers = itertools.count()
        self._ghosts: dict[K, float] = {}
        self._len = 0

    def insert(self, key: K, cost: float = 1.0) -> None:
        if key in self:
            raise KeyError(key)
        self._enter(key).add((self._ghosts.pop(key, 0.0) + 1.0, next(self._numbers), key))
        self._len += 1

    def touch(self, key: K) -> None:
        if key not in self:
            raise KeyError(key)
        layer = self._enter(key)
        layer.add((layer.take(key) + 1.0, next(self._numbers), key))

    def remove(self, key: K) -> None:
        if key not in self:
            raise KeyError(key)
        self._layers[self._layer_of(key)].take(key)
        self._len -= 1

    def evict(self, n: int, protected: Collection[K] = ()) -> list[K]:
        if n < 0:
            raise ValueError(f"cannot evict {n} keys; n must be at least 0")
        # The least used of each layer compete.
        rest = {
            index: (place for place in layer.order if place[2] not in protected)
            for index, layer in self._layers.items()
        }
        heads = [head for index, places in rest.items() for head in self._next(index, places)]
        heapq.heapify(heads)
        victims: list[_Place[K]] = []
        while heads and len(victims) < n:
            _, index, victim = heapq.heappop(heads)
            victims.append(victim)
            for head in self._next(index, rest[index]) if len(victims) < n else ():
                heapq.heappush(heads, head)
        if len(victims) < n:
            return []
        for uses, _, key in victims:
            self.remove(key)
            self._ghosts[key] = uses
        while len(self._ghosts) > 4 * self.capacity:
            del self._ghosts[next(iter(self._ghosts))]
        return [key for _, _, key in victims]

    def __contains__(self, key: object) -> bool:
        layer = self._layers.get(self._layer_of(key))  # type: ignore[arg-type]  # the seam says object
        return layer is not None and key in layer.places

    def __len__(self) -> int:
        return self._len

    def _enter(self, key: K) -> _Layer[K]:
        """The layer of a key that is used; a new pass through it, if the key before was of another."""
        index = self._layer_of(key)
        layer = self._layers.setdefault(index, _Layer())
        if index != self._current:
            self._current = index
            layer.passes += 1
            if layer.passes >= _WINDOW:
                layer.halve()
        return layer

    def _next(self, index: int, places: Iterator[_Place[K]]) -> Iterator[tuple[float, int, _Place[K]]]:
        """The next of a layer's keys that may go, if there is one, with how far away its use is: the farthest first."""
        for place in itertools.islice(places, 1):
            span = max(self._layers) + 1
            until_layer = ((index - self._current) % span or span) / span
            passes = max(0.0, self._layers[index].passes / place[0] - 1)
            yield -(until_layer + passes), index, place
