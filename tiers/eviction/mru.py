"""Most recently used."""

from collections.abc import Iterable

from tiers.eviction.base import K
from tiers.eviction.ordered import OrderedPolicy


class MRUPolicy(OrderedPolicy[K]):
    """Evicts the key that was used last: in a loop it is the one whose next use is farthest away.

    The right choice for what is read round and round and does not fit, such as the weights of all layers, once per
    token: of N keys in C slots it hits (C - 1) / (N - 1) of the accesses, where LRU hits none (the "looping
    sequential" pattern of Chou and DeWitt, VLDB 1985). Protect what is in use now: it is what this policy picks first.
    """

    def touch(self, key: K) -> None:
        self._keys.move_to_end(key)

    def _victims_first(self) -> Iterable[K]:
        return reversed(self._keys)
