"""A cache for each layer: the slots are shared out evenly, and within a layer another policy decides."""

import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterator

from tiers.eviction.arc import ARCPolicy
from tiers.eviction.base import EvictionPolicy, K
from tiers.eviction.choose import can_spare
from tiers.eviction.lru import LRUPolicy
from tiers.eviction.spaced import layer_of


class PerLayerPolicy(EvictionPolicy[K]):
    """The layer with the most keys gives one up; among equals the current one, then the one that was used last.

    Room is made before it is known for which layer. So a layer may hold one key more than its share until the next
    eviction, which is its own. The first ``num_whole`` layers keep all that they have: of them a key goes only where no
    other layer has any to spare, from the last of them first.
    """

    def __init__(
        self,
        capacity: int,
        make: Callable[[int], EvictionPolicy[K]] = LRUPolicy,
        num_whole: int = 0,
        layer_of: Callable[[K], int] = layer_of,
    ) -> None:
        super().__init__(capacity)
        self._make = make
        self._num_whole = num_whole
        self._layer_of = layer_of
        self._layers: dict[int, EvictionPolicy[K]] = {}
        """The one that was used last at the end."""
        self._resident: dict[K, None] = {}

    def insert(self, key: K, cost: float = 1.0) -> None:
        if key in self._resident:
            raise KeyError(key)
        layer = self._layer_of(key)
        is_new = layer not in self._layers
        self._enter(layer).insert(key, cost)
        self._resident[key] = None
        if is_new or layer < self._num_whole:
            self._share_out()

    def touch(self, key: K) -> None:
        if key not in self._resident:
            raise KeyError(key)
        self._enter(self._layer_of(key)).touch(key)

    def remove(self, key: K) -> None:
        del self._resident[key]
        self._layers[self._layer_of(key)].remove(key)

    def evict(self, n: int, protected: Collection[K] = ()) -> list[K]:
        if n == 0 or not can_spare(n, protected, self._resident):
            return []
        turns = list(itertools.islice(self._turns(), n))
        counts = Counter(turns)
        if n > 1 and all(len(self._layers[layer]) - len(protected) >= count for layer, count in counts.items()):
            of_layer = {layer: iter(self._layers[layer].evict(count, protected)) for layer, count in counts.items()}
            victims = [next(of_layer[layer]) for layer in turns]
        else:
            victims = [self._evict_one(protected) for _ in range(n)]
        for key in victims:
            del self._resident[key]
        return victims

    def __contains__(self, key: object) -> bool:
        return key in self._resident

    def __len__(self) -> int:
        return len(self._resident)

    def _enter(self, layer: int) -> EvictionPolicy[K]:
        policy = self._layers.pop(layer, None) or self._make(self.capacity)
        self._layers[layer] = policy
        return policy

    def _evict_one(self, protected: Collection[K]) -> K:
        """Layers all of whose keys are protected are passed over; it must be known that there is another."""
        for layer in sorted(self._layers, key=self._sizes().__getitem__, reverse=True):
            victims = self._layers[layer].evict(1, protected)
            if victims:
                return victims[0]
        raise AssertionError("no layer has a key to spare")

    def _turns(self) -> Iterator[int]:
        """The layers from which the next victims come, were none protected."""
        sizes = self._sizes()
        while True:
            layer = max(sizes, key=sizes.__getitem__)
            yield layer
            is_deep, size, rank = sizes[layer]
            sizes[layer] = (is_deep, size - is_deep, rank)

    def _sizes(self) -> dict[int, tuple[bool, int, int]]:
        """The largest of these has to give a key up."""
        return {
            layer: (True, len(policy), rank) if layer >= self._num_whole else (False, layer, rank)
            for rank, (layer, policy) in enumerate(self._layers.items())
        }

    def _share_out(self) -> None:
        """Tell the policies of the layers how many slots they have: those with ghosts go by it."""
        deep = [policy for layer, policy in self._layers.items() if layer >= self._num_whole]
        whole = len(self._resident) - sum(map(len, deep))
        for policy in deep:
            policy.capacity = max(1, (self.capacity - whole) // len(deep))


class PerLayerLRUPolicy(PerLayerPolicy[K]):
    """What mixtral-offloading (arXiv 2312.17238) and ProMoE (arXiv 2410.22134) keep."""

    def __init__(self, capacity: int, layer_of: Callable[[K], int] = layer_of) -> None:
        super().__init__(capacity, LRUPolicy, layer_of=layer_of)


class ShallowARCPolicy(PerLayerPolicy[K]):
    """Fate's cache (arXiv 2502.12224): the first four layers whole, since no gate before them tells what they will
    choose in time, and ARC for each of the others. With fewer slots than that, whole layers from the front.
    """

    def __init__(self, capacity: int, layer_of: Callable[[K], int] = layer_of) -> None:
        super().__init__(capacity, ARCPolicy, 4, layer_of)
