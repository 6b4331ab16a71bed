"""What links have in common that cut transfers into chunks and keep several of them in flight."""

import threading
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tiers.errors import WorldError
from tiers.link import Batch, Link, Priority, Transfer, as_world_error, describe
from tiers.timeline import Timeline

_NOTHING = Batch((), is_last=True)


@dataclass(slots=True, eq=False)
class Job:
    """A chunk under way. What the chunk is, is the link's own affair, and so is ``ring_slot``."""

    transfer: Transfer
    chunk: Any
    start: float
    is_guess: bool
    ring_slot: int = -1


class ChunkedLink(Link):
    """The queue of transfers, cut up when their turn comes, so that a demand overtakes what has already begun.

    Subclasses say how a transfer is cut, how chunks are started and how they end. All of that happens on the link's
    thread.
    """

    def __init__(
        self, name: str, finished: threading.Condition, timeline: Timeline | None, guess_depth: int | None = None
    ) -> None:
        self._guess_depth = guess_depth
        self._num_guesses = 0
        self._jobs: set[Job] = set()
        self._ended: list[Transfer] = []
        super().__init__(name, finished, timeline)

    @abstractmethod
    def _cut(self, transfer: Transfer) -> Iterator[Batch]:
        """The chunks of a transfer, some at a time; what it raises ends that transfer only."""

    @abstractmethod
    def _has_room(self, num_more: int) -> bool:
        """Whether another chunk may be started after so many more."""

    @abstractmethod
    def _begin(self, jobs: Sequence[Job]) -> None:
        """Start chunks."""

    @abstractmethod
    def _advance(self) -> None:
        """Wait until something has happened to what is in flight; calls ``_end`` for every chunk that is over."""

    @abstractmethod
    def _drain(self) -> None:
        """Something broke: return when nothing of what was in flight touches a slot any more."""

    def _conclude(self, transfer: Transfer) -> None:
        """All chunks of a transfer have moved: whatever is left to do; raises what is wrong with it."""

    def _shut(self) -> None:
        """The thread ends: give back what it has used."""

    def _run(self) -> None:
        busy_since = 0.0
        while True:
            with self._changed:
                if not self._jobs:
                    self._changed.wait_for(lambda: self._is_closed or self._next() is not None)
                    busy_since = time.perf_counter()
                    if self._is_closed and self._next() is None:
                        break
            try:
                self._start_chunks()
                self._advance()
            except Exception as error:  # noqa: BLE001 - whatever it is, nobody may wait for ever
                self._fail_all(error)
            ended, self._ended = self._ended, []
            for transfer in ended:
                self._finish(transfer, self._outcome(transfer))
            now = time.perf_counter()
            self.stats.busy_s += now - busy_since
            busy_since = now
        self._shut()

    def _start_chunks(self) -> None:
        jobs: list[Job] = []
        while self._has_room(len(jobs)):
            with self._changed:
                transfer = self._next()
                if transfer is None:
                    break
                if not transfer.chunks and not self._cut_more(transfer):
                    continue
                chunk = transfer.chunks.popleft()
                transfer.num_in_flight += 1
                if not transfer.chunks and not transfer.has_batches:
                    self._queues[transfer.priority].popleft()
            job = Job(transfer, chunk, time.perf_counter(), transfer.priority is Priority.GUESS)
            self._num_guesses += job.is_guess
            self._jobs.add(job)
            jobs.append(job)
        if jobs:
            self._begin(jobs)
        with self._changed:
            # While the device is busy: then what comes next starts at once when there is room for it.
            transfer = self._next()
            if transfer is not None and not transfer.chunks:
                self._cut_more(transfer)

    def _next(self) -> Transfer | None:
        transfer = super()._next()
        if transfer is None or transfer.priority is not Priority.GUESS:
            return transfer
        if self._guess_depth is None or self._num_guesses < self._guess_depth:
            return transfer
        return next(iter(self._queues[Priority.WRITE_BACK]), None)

    def _cut_more(self, transfer: Transfer) -> bool:
        """Cut the next chunks of the first transfer of its queue; False if there are none, and it leaves the queue."""
        if transfer.batches is None:
            transfer.batches = self._cut(transfer)
        try:
            batch = next(transfer.batches, _NOTHING)
        except Exception as error:  # noqa: BLE001
            transfer.error = transfer.error or as_world_error(error, transfer)
            batch = _NOTHING
        transfer.chunks.extend(batch.chunks)
        transfer.has_batches = not batch.is_last
        if transfer.chunks:
            return True
        self._queues[transfer.priority].popleft()
        if transfer.num_in_flight == 0:
            self._finish(transfer)
        return False

    def _record(self, job: Job, nbytes: int) -> None:
        self.stats.nbytes += nbytes
        if self._timeline:
            self._timeline.record(self.name, describe(job.transfer), job.start, nbytes)

    def _fail(self, transfer: Transfer, error: WorldError) -> None:
        """The rest of a transfer is not even tried; it ends with what of it is in flight."""
        with self._changed:
            transfer.error = transfer.error or error
            if transfer.chunks or transfer.has_batches:
                transfer.chunks.clear()
                transfer.has_batches = False
                self._queues[transfer.priority].remove(transfer)

    def _end(self, job: Job) -> None:
        """Nothing of a chunk moves any more."""
        self._jobs.remove(job)
        self._num_guesses -= job.is_guess
        with self._changed:
            job.transfer.num_in_flight -= 1
            if job.transfer.num_in_flight == 0 and not job.transfer.chunks and not job.transfer.has_batches:
                self._ended.append(job.transfer)

    def _outcome(self, transfer: Transfer) -> WorldError | None:
        self.stats.num_blocks += len(transfer.moves)
        if transfer.error is not None:
            return None
        try:
            self._conclude(transfer)
        except Exception as error:  # noqa: BLE001
            return as_world_error(error, transfer)
        return None

    def _fail_all(self, error: Exception) -> None:
        """The device itself is broken: end every transfer, so that whoever waits learns of it."""
        self._drain()
        with self._changed:
            doomed = {id(job.transfer): job.transfer for job in self._jobs}
            doomed.update({id(transfer): transfer for queue in self._queues.values() for transfer in queue})
            self._jobs.clear()
            self._num_guesses = 0
            for queue in self._queues.values():
                queue.clear()
        for transfer in doomed.values():
            self._finish(transfer, as_world_error(error, transfer))
