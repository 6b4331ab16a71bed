"""A cache of experts at work: what is there comes first, what is missing is fetched, what is guessed comes ahead.

Keys and slots only. The runtime's store of experts and the simulator's replay of a generation drive this same object,
the one with wall time and the other with virtual time.
"""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice, takewhile
from typing import Protocol

from prefetch.budget import LinkEstimate, PrefetchBudget
from prefetch.expert_predictor import ExpertPredictor
from prefetch.prefetcher import Prefetcher
from tiers.block import BlockKey, ExpertKey
from tiers.errors import TierFullError
from tiers.manager import LookupResult, TieredMemoryManager

_LEAST_PROBABILITY = 0.5
"""Guesses that come true less often are not worth the slots that they take; the link they have only when it is free."""
_BEFORE_THE_FIRST_STEP = LinkEstimate(bytes_per_s=1e9, step_s=5e-3)
"""Holds until a step was seen; of the size that a slow drive and a small layer have."""


class Pace(Protocol):
    """Time, and what the link into the device has done with it, as whoever drives the cache has them."""

    def now_s(self) -> float:
        """Seconds since some moment."""
        ...

    def waited_s(self) -> float:
        """Of these, seconds in which somebody waited for a transfer."""
        ...

    def delivered(self) -> tuple[int, float]:
        """Bytes that the link has moved, and the seconds in which it was busy."""
        ...


class ExpertWaves:
    """Level 0 of ``manager`` is the cache; its slots have ``slot_nbytes`` bytes each."""

    def __init__(self, manager: TieredMemoryManager, slot_nbytes: int, pace: Pace) -> None:
        self.manager = manager
        self.decision_s = 0.0
        """Time spent on predicting, choosing and bookkeeping; neither on waiting nor on computing. See ``deciding``."""
        self._slot_nbytes = slot_nbytes
        self._pace = pace
        self._prefetcher: Prefetcher | None = None
        self._budget: PrefetchBudget[BlockKey] | None = None
        self._link = _BEFORE_THE_FIRST_STEP
        self._visited_at = 0.0

    def predict_with(self, predictor: ExpertPredictor) -> None:
        """From now on fetch ahead what ``predictor`` names, as much as the link was seen to deliver in a step."""
        most = max(1, self.manager.levels[0].pool.num_slots // 8)
        self._budget = PrefetchBudget(self._link, self._slot_nbytes, most, least_probability=_LEAST_PROBABILITY)
        self._prefetcher = Prefetcher(self.manager, predictor, self._budget)

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """What happens inside counts as a decision, wherever it is made."""
        start = self._clock()
        try:
            yield
        finally:
            self.decision_s += self._clock() - start

    def waves(self, keys: Sequence[ExpertKey], *, all_at_once: bool = False) -> Generator[list[tuple[ExpertKey, int]]]:
        """Each of these experts of one layer once, with its slot, in which it stays until the next are asked for.

        Those that are ready come together: at first what is on the device, while the others are fetched, as many at a
        time as there is room for. What had to be fetched comes expert by expert or, with ``all_at_once``, as few times
        as there is room for. Raises TransferError, CorruptBlockError.
        """
        start = self._clock()
        manager = self.manager
        here = [key for key in keys if manager.lookup(key) is LookupResult.HIT]
        present = set(here)
        missing = deque(key for key in keys if key not in present)
        held: deque[ExpertKey] = deque()
        try:
            if self._prefetcher and keys:
                self._note_pace()
                self._prefetcher.used(keys)
            manager.prepare_load(here)
            held.extend(here)
            if self._prefetcher and keys:
                self._prefetcher.foresee(keys[0].layer)
            self._start(missing, held)
            if self._prefetcher and keys:
                self._prefetcher.request()
            while held or missing:
                self._start(missing, held)
                # While slots are short each of them is given back as soon as it can be.
                group = [] if missing else list(takewhile(present.__contains__, held))
                group = group or (list(held) if all_at_once else [held[0]])
                for _ in group:  # complete_load gives the pins back by itself if it fails
                    held.popleft()
                slots = manager.complete_load(group)
                held.extendleft(reversed(group))
                self.decision_s += self._clock() - start
                yield list(zip(group, slots, strict=True))
                start = self._clock()
                for _ in group:
                    held.popleft()
                manager.release(group)
            self.decision_s += self._clock() - start
        finally:
            manager.release(held)

    def _start(self, missing: deque[ExpertKey], held: deque[ExpertKey]) -> None:
        """Begin to fetch as many as there is room for; the first of all if nothing else is held."""
        most = len(missing)
        while missing:
            room = self.manager.room
            if held and not room:
                return
            some = list(islice(missing, max(1, min(most, room))))
            try:
                self.manager.prepare_load(some)
            except TierFullError:
                if len(some) > 1:
                    most = 1  # some of the room is not free yet
                elif held:
                    return
                # What was fetched ahead and is not wanted now may be all that is in the way.
                elif not (self._prefetcher and self._prefetcher.stop()):
                    raise
                continue
            for key in some:
                missing.popleft()
                held.append(key)

    def _clock(self) -> float:
        """Seconds; it stands still while somebody waits for a transfer."""
        return self._pace.now_s() - self._pace.waited_s()

    def _note_pace(self) -> None:
        """What the link has delivered so far, and how long a layer takes now."""
        now, (nbytes, busy_s) = self._pace.now_s(), self._pace.delivered()
        # While the first bytes are still under way nothing is known of the link.
        if self._budget and nbytes and busy_s:
            step_s = 0.75 * self._link.step_s + 0.25 * min(now - self._visited_at, 1.0)
            self._link = self._budget.link = LinkEstimate(nbytes / busy_s, step_s)
        self._visited_at = now
