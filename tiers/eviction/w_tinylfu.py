"""W-TinyLFU: a newcomer stays if it is used more often than what would leave for it (Einziger et al., TOS 2017)."""

from collections import OrderedDict
from collections.abc import Collection
from itertools import chain, filterfalse

from tiers.eviction.base import EvictionPolicy, K
from tiers.eviction.choose import can_spare
from tiers.eviction.sketch import FrequencySketch


class WTinyLFUPolicy(EvictionPolicy[K]):
    """A hundredth of the slots is a window for newcomers, LRU; the others are a segmented LRU behind a gate.

    Room is made by a contest between the oldest key of the window and the one that the main part would give up: the one
    with fewer uses goes, the newcomer where they are equal. Uses are counted, of keys that left as well, in a sketch
    that forgets (see there). A key of the main part that is used moves to its protected segment, four fifths of it.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._window_slots = max(1, capacity // 100)
        self._protected_slots = (capacity - self._window_slots) * 4 // 5
        self._window: OrderedDict[K, None] = OrderedDict()
        self._probation: OrderedDict[K, None] = OrderedDict()
        self._protected: OrderedDict[K, None] = OrderedDict()
        self._uses: FrequencySketch[K] = FrequencySketch(capacity)

    def insert(self, key: K, cost: float = 1.0) -> None:
        if key in self._probation or key in self._protected or key in self._window:
            raise KeyError(key)
        self._uses.add(key)
        self._window[key] = None
        if len(self._window) > self._window_slots:
            # Room was made before, here or in the main part: nobody has to leave for this one.
            oldest, _ = self._window.popitem(last=False)
            self._probation[oldest] = None

    def touch(self, key: K) -> None:
        if key in self._window:
            self._window.move_to_end(key)
        elif key in self._protected:
            self._protected.move_to_end(key)
        elif key in self._probation:
            del self._probation[key]
            self._protected[key] = None
            if len(self._protected) > self._protected_slots:
                oldest, _ = self._protected.popitem(last=False)
                self._probation[oldest] = None
        else:
            raise KeyError(key)
        self._uses.add(key)

    def remove(self, key: K) -> None:
        del self._queue_of(key)[key]
        self._uses.forget(key)

    def evict(self, n: int, protected: Collection[K] = ()) -> list[K]:
        if not can_spare(n, protected, self._window, self._probation, self._protected):
            return []
        newcomers = filterfalse(protected.__contains__, self._window)
        settled = filterfalse(protected.__contains__, chain(self._probation, self._protected))
        newcomer, old = next(newcomers, None), next(settled, None)
        victims: list[K] = []
        num_window = len(self._window)
        while len(victims) < n:
            is_contest = newcomer is not None and num_window >= self._window_slots
            if newcomer is not None and (old is None or (is_contest and not self._wins(newcomer, old))):
                victims.append(newcomer)
                newcomer = next(newcomers, None)
                num_window -= 1
            else:
                assert old is not None
                victims.append(old)
                old = next(settled, None)
        for key in victims:
            del self._queue_of(key)[key]
        return victims

    def __contains__(self, key: object) -> bool:
        return key in self._probation or key in self._protected or key in self._window

    def __len__(self) -> int:
        return len(self._window) + len(self._probation) + len(self._protected)

    def _queue_of(self, key: K) -> OrderedDict[K, None]:
        if key in self._probation:
            return self._probation
        return self._protected if key in self._protected else self._window

    def _wins(self, newcomer: K, old: K) -> bool:
        return self._uses.count(newcomer) > self._uses.count(old)
