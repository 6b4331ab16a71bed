"""Policies whose whole state is one order of the keys."""

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Collection, Iterable

from tiers.eviction.base import EvictionPolicy, K
from tiers.eviction.choose import evict_first


class OrderedPolicy(EvictionPolicy[K]):
    """Keys in the order of their arrival, until ``touch`` moves them; ``_victims_first`` says from which end they go.

    An OrderedDict and not a dict: the first key of a dict is found by stepping over every key deleted before it.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._keys: OrderedDict[K, None] = OrderedDict()

    @abstractmethod
    def _victims_first(self) -> Iterable[K]:
        """All keys, the one to evict first at the start."""

    def insert(self, key: K, cost: float = 1.0) -> None:
        num_before = len(self._keys)
        self._keys[key] = None  # leaves one that is there at its place
        if len(self._keys) == num_before:
            raise KeyError(key)

    def remove(self, key: K) -> None:
        del self._keys[key]

    def evict(self, n: int, protected: Collection[K] = ()) -> list[K]:
        return evict_first(self, self._victims_first(), n, protected)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __len__(self) -> int:
        return len(self._keys)
