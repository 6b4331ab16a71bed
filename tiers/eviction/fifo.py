"""First in, first out."""

from collections.abc import Iterable

from tiers.eviction.base import K
from tiers.eviction.ordered import OrderedPolicy


class FIFOPolicy(OrderedPolicy[K]):
    """Evicts the key that has been resident for the longest time, however often it was used."""

    def touch(self, key: K) -> None:
        if key not in self._keys:
            raise KeyError(key)

    def _victims_first(self) -> Iterable[K]:
        return self._keys
