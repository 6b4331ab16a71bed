"""SIEVE: one queue and a hand that moves over it (Zhang et al., NSDI 2024)."""

from collections import OrderedDict
from collections.abc import Collection

from tiers.eviction.base import EvictionPolicy, K
from tiers.eviction.choose import can_spare


class SievePolicy(EvictionPolicy[K]):
    """A hand goes from the oldest key to the newest: a key that was used since its last visit stays, another one goes.

    A key that stays keeps its place, so that newcomers, which arrive ahead of the hand, are sifted sooner than what has
    proven itself. At the newest key the hand starts over.

    The paper's queue is cut at the hand: what it still has to visit, and what it has passed. A hit is a mark and moves
    nothing, and all else is done at the ends of ordered dicts.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._ahead: OrderedDict[K, bool] = OrderedDict()
        """Whether each key was used, oldest first."""
        self._passed: OrderedDict[K, bool] = OrderedDict()

    def insert(self, key: K, cost: float = 1.0) -> None:
        if key in self._ahead or key in self._passed:
            raise KeyError(key)
        self._ahead[key] = False

    def touch(self, key: K) -> None:
        if key in self._ahead:
            self._ahead[key] = True
        elif key in self._passed:
            self._passed[key] = True
        else:
            raise KeyError(key)

    def remove(self, key: K) -> None:
        del (self._ahead if key in self._ahead else self._passed)[key]
        if not self._ahead:
            self._start_over()

    def evict(self, n: int, protected: Collection[K] = ()) -> list[K]:
        ahead, passed = self._ahead, self._passed
        if not 0 <= n <= len(ahead) + len(passed) - len(protected) and not can_spare(n, protected, ahead, passed):
            return []
        victims: list[K] = []
        while n:
            key, is_used = self._ahead.popitem(last=False)
            if key in protected:
                self._passed[key] = is_used
            elif is_used:
                self._passed[key] = False
            else:
                victims.append(key)
                n -= 1
            if not self._ahead:
                self._start_over()
        return victims

    def __contains__(self, key: object) -> bool:
        return key in self._ahead or key in self._passed

    def __len__(self) -> int:
        return len(self._ahead) + len(self._passed)

    def _start_over(self) -> None:
        """At once, so that what is inserted next is the last key that the hand comes to, and not the first."""
        self._ahead, self._passed = self._passed, self._ahead
