"""Least recently used."""

from collections.abc import Iterable

from tiers.eviction.base import K
from tiers.eviction.ordered import OrderedPolicy


class LRUPolicy(OrderedPolicy[K]):
    """Evicts the key that has not been used for the longest time."""

    def touch(self, key: K) -> None:
        self._keys.move_to_end(key)

    def _victims_first(self) -> Iterable[K]:
        return self._keys
