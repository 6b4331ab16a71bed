"""A dict that finds its oldest key at once, in half the memory of an ordered one."""

from itertools import islice

from tiers.eviction.base import K
from tiers.eviction.choose import V

_LOOK_AHEAD = 256
"""Keys. To find its first one a dict steps over all that were deleted before it; of so many at a time it hardly counts.
"""


class KeyQueue(dict[K, V]):
    """Keys by age, each with a value; one that is put in anew is the youngest.

    The next few to go are written down apart, so keys may leave by the methods below only. (To replace
    ``del`` would cost every assignment the speed of a dict.) What was put back lies at the wrong end of the dict: who
    iterates gets all keys, but not in order.
    """

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next: dict[K, None] = {}
        """The oldest key is the last."""

    def remove(self, key: K) -> None:
        """KeyError if it is not there."""
        del self[key]
        if key in self._next:
            del self._next[key]

    def pop_oldest(self) -> K:
        """Take out the oldest key; KeyError if there is none."""
        if not self._next:
            self._look_ahead()
        key, _ = self._next.popitem()
        del self[key]
        return key

    def pop_oldest_item(self) -> tuple[K, V]:
        """As ``pop_oldest``, with the value."""
        if not self._next:
            self._look_ahead()
        key, _ = self._next.popitem()
        return key, self.pop(key)

    def drop_oldest(self, n: int) -> None:
        """Take out the ``n`` oldest keys, or as many as there are; none if ``n`` is negative."""
        upcoming = self._next
        while n > 0 and self:
            if not upcoming:
                self._look_ahead()
                upcoming = self._next
            key, _ = upcoming.popitem()
            del self[key]
            n -= 1

    def put_back(self, key: K, value: V) -> None:
        """Make a key that was taken out the oldest again."""
        self[key] = value
        self._next[key] = None

    def _look_ahead(self) -> None:
        self._next = dict.fromkeys(reversed(tuple(islice(self, _LOOK_AHEAD))))


def put_back(passed_over: list[tuple[KeyQueue[K, V], K, V]]) -> None:
    """Give queues back what was taken from their fronts, one after the other, and has to stay."""
    for queue, key, value in reversed(passed_over):
        queue.put_back(key, value)
