"""The seam of eviction: which block has to leave. Pure bookkeeping over keys; reads no clock, touches no bytes."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)


class Expected(NamedTuple):
    """What is known of the next use of a key: how sure it is (1 is certain), and how many steps away.

    The step that is being computed is 0 steps away, the next one 1.
    """

    probability: float
    steps: int


class EvictionPolicy(ABC, Generic[K]):
    """Orders the resident keys of one tier. The caller inserts a key once, when it becomes resident.

    ``capacity`` is the number of slots of the tier. Policies that keep ghosts (ARC, S3-FIFO) size them by it.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, got {capacity}")
        self.capacity = capacity

    @abstractmethod
    def insert(self, key: K, cost: float = 1.0) -> None:
        """A key became resident; KeyError if it was.

        ``cost`` is what bringing it back would take, in seconds or any one unit.
        """

    def insert_all(self, keys: Collection[K], cost: float = 1.0) -> None:
        """As ``insert``, of many, one after the other; KeyError if one of them was resident."""
        for key in keys:
            self.insert(key, cost)

    @abstractmethod
    def touch(self, key: K) -> None:
        """A resident key was used; KeyError if it is not resident."""

    @abstractmethod
    def remove(self, key: K) -> None:
        """A key left for a reason other than ``evict`` and leaves no ghost; KeyError if it is not resident."""

    def announce(self, keys: Sequence[K]) -> None:
        """The next ``evict`` makes room for these keys, which are inserted then, in this order; few policies care.

        Some of them may have slots already. Changes nothing by itself; what was announced before is forgotten.
        """

    @abstractmethod
    def evict(self, n: int, protected: Collection[K] = ()) -> list[K]:
        """Choose and remove ``n`` keys, none of them in ``protected``, in the order in which they should go.

        All or nothing: an empty list, and no change at all, when fewer than ``n`` keys may go. ``evict(0)`` is safe.
        """

    def forecast(self, step: int, expected: Iterable[tuple[K, Expected]]) -> None:
        """What is expected to be used from ``step`` on, in place of what was said before; most policies do not care.

        ``step`` is the index into the cyclic schedule of what is being computed now. Keys may be resident or not. One
        that is named twice is expected at the sooner of the two.
        """

    def insert_ahead(self, key: K, cost: float = 1.0) -> None:
        """As ``insert``, of a key that is brought since it is expected: it was not used, its first use is a touch.

        Policies that do not care for forecasts take it for a use.
        """
        self.insert(key, cost)

    @abstractmethod
    def __contains__(self, key: object) -> bool: ...

    @abstractmethod
    def __len__(self) -> int: ...
