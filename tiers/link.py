"""One direction between two tiers: a thread, a queue by priority, and counters."""

import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np

from tiers.checksum import BlockChecksums
from tiers.chunks import Move
from tiers.copies import plan_copies
from tiers.errors import TransferCancelledError, TransferError, WorldError
from tiers.tier import SupportsMemory, SupportsView, Tier
from tiers.timeline import Timeline


class Priority(IntEnum):
    """What goes first on a link."""

    DEMAND = 0
    PREFETCH = 1
    """Will be needed for certain."""
    GUESS = 2
    """May not be needed: only a few requests at a time, so that a demand finds the drive all but free."""
    WRITE_BACK = 3


@dataclass(slots=True)
class LinkStats:
    """Counters of one link since it was opened."""

    nbytes: int = 0
    busy_s: float = 0.0
    """Seconds in which at least one request was in flight."""
    num_blocks: int = 0


class Batch(NamedTuple):
    """Chunks of a transfer; ``is_last`` if no others follow."""

    chunks: Sequence[Any]
    is_last: bool


@dataclass(slots=True, eq=False)
class Transfer:
    """Blocks on their way. Made by the engine; ``is_done`` turns true once and last of all."""

    source: Tier
    target: Tier
    moves: tuple[Move, ...]
    priority: Priority
    error: WorldError | None = None
    is_done: bool = False
    is_given_up: bool = False
    """Somebody waited for so long that it counts as failed. Until ``is_done`` the drive may still touch its slots."""
    chunks: deque[Any] = field(default_factory=deque)
    """Not yet started, on a link that cuts transfers up. Belongs to the link, like what follows."""
    batches: Iterator[Batch] | None = None
    """The chunks that come after those, cut when their turn comes."""
    has_batches: bool = True
    """Whether there may be such."""
    checksums: BlockChecksums | None = None
    """Of blocks on their way to or from a tier that keeps checksums."""
    after: object = None
    """The work of a device that was under way when this was submitted: until it is over the slots may be in use."""
    num_started: int = 0
    """Moves that were started, on a link between memories."""
    num_in_flight: int = 0

    @property
    def link_name(self) -> str:
        return f"{self.source.name}->{self.target.name}"


class Link(ABC):
    """The thread and the queue; subclasses say how bytes move."""

    def __init__(self, name: str, finished: threading.Condition, timeline: Timeline | None) -> None:
        self.name = name
        self.stats = LinkStats()
        self.way = ""
        """How bytes go where that is not the best way there is, and why; one line."""
        self._timeline = timeline
        self._finished = finished
        self._changed = threading.Condition()
        self._queues: dict[Priority, deque[Transfer]] = {priority: deque() for priority in Priority}
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def notes(self) -> list[str]:
        """What is slower on this link than it could be and why, one line each."""
        return [self.way] if self.way else []

    def submit(self, transfer: Transfer) -> None:
        """Queue a transfer behind those of its priority."""
        with self._changed:
            self._queues[transfer.priority].append(transfer)
            self._changed.notify()

    def expedite(self, transfer: Transfer) -> None:
        """Queue a transfer that has not wholly started among the demands."""
        with self._changed:
            if transfer.priority is not Priority.DEMAND and transfer in self._queues[transfer.priority]:
                self._queues[transfer.priority].remove(transfer)
                self._queues[Priority.DEMAND].append(transfer)
            transfer.priority = Priority.DEMAND

    def cancel(self, transfer: Transfer) -> bool:
        """Take a transfer off the queue. False if some of it is in flight: then it ends by itself, soon."""
        with self._changed:
            if transfer.is_done or transfer not in self._queues[transfer.priority]:
                return False
            self._queues[transfer.priority].remove(transfer)
            transfer.chunks.clear()
            transfer.has_batches = False
            transfer.error = transfer.error or TransferCancelledError(f"{self.name}: transfer cancelled")
            is_quiet = transfer.num_in_flight == 0
        if is_quiet:
            self._finish(transfer)
        return is_quiet

    def close(self, timeout_s: float) -> None:
        """Cancel what waits, finish what is in flight, end the thread; one that the drive does not answer is left."""
        with self._changed:
            waiting = [transfer for queue in self._queues.values() for transfer in queue]
        for transfer in waiting:
            self.cancel(transfer)
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(timeout_s)

    @abstractmethod
    def _run(self) -> None:
        """The thread: serve the queues until closed."""

    def _next(self) -> Transfer | None:
        """The transfer that goes first, left in its queue. Call with the lock held."""
        for queue in self._queues.values():
            if queue:
                return queue[0]
        return None

    def _finish(self, transfer: Transfer, error: WorldError | None = None) -> None:
        if error is not None and transfer.error is None:
            transfer.error = error
        with self._finished:
            transfer.is_done = True
            self._finished.notify_all()


class MemoryLink(Link):
    """Between two tiers of this process's memory: copies, some blocks at a time, then looks what goes first now."""

    def __init__(self, name: str, finished: threading.Condition, timeline: Timeline | None, chunk_nbytes: int) -> None:
        self._chunk_nbytes = chunk_nbytes
        super().__init__(name, finished, timeline)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or self._next() is not None)
                transfer = self._next()
                if transfer is None:
                    return
                moves = self._take(transfer)
            start = time.perf_counter()
            error: WorldError | None = None
            try:
                self._copy(transfer, moves)
            except Exception as exception:  # noqa: BLE001 - whatever it is, nobody may wait for ever
                error = as_world_error(exception, transfer)
            self.stats.busy_s += time.perf_counter() - start
            if self._timeline:
                self._timeline.record(self.name, describe(transfer), start, len(moves) * transfer.source.block_nbytes)
            if self._is_over(transfer, error):
                self._finish(transfer, error)

    def _take(self, transfer: Transfer) -> tuple[Move, ...]:
        """The next moves of a transfer; it leaves the queue with the last of them. Call with the lock held."""
        first = transfer.num_started
        moves = transfer.moves[first : first + max(1, self._chunk_nbytes // transfer.source.block_nbytes)]
        transfer.num_started += len(moves)
        transfer.num_in_flight = 1
        if transfer.num_started == len(transfer.moves):
            self._queues[transfer.priority].popleft()
        return moves

    def _is_over(self, transfer: Transfer, error: WorldError | None) -> bool:
        with self._changed:
            transfer.num_in_flight = 0
            has_failed = error is not None or transfer.error is not None
            if has_failed and transfer in self._queues[transfer.priority]:
                self._queues[transfer.priority].remove(transfer)
            return has_failed or transfer.num_started == len(transfer.moves)

    def _copy(self, transfer: Transfer, moves: Sequence[Move]) -> None:
        for there, here in _pieces(transfer.source, transfer.target, moves):
            # numpy copies without the interpreter lock; assigning a memoryview would stop the model for the copy.
            block = np.frombuffer(there, np.uint8)
            np.copyto(np.frombuffer(here, np.uint8), block)
            self.stats.nbytes += block.nbytes
        self.stats.num_blocks += len(moves)


def _pieces(source: Tier, target: Tier, moves: Sequence[Move]) -> Iterator[tuple[memoryview, memoryview]]:
    """What is copied where, blocks that are neighbours in both memories as one piece.

    For each piece the interpreter lock goes back and forth between the model's thread and ours, which takes them longer
    than to copy a small block.
    """
    if isinstance(source, SupportsMemory) and isinstance(target, SupportsMemory):
        all_there, all_here = source.flat(), target.flat()
        assert isinstance(all_there, memoryview)
        assert isinstance(all_here, memoryview)
        for chunk in plan_copies(source.layout(), target.layout(), moves, sys.maxsize):
            for start, place, nbytes in chunk.runs.tolist():
                yield all_there[start : start + nbytes], all_here[place : place + nbytes]
        return
    assert isinstance(source, SupportsView)
    assert isinstance(target, SupportsView)
    for move in moves:
        yield source.view(move.source_slot), target.view(move.target_slot)


def as_world_error(error: Exception, transfer: Transfer) -> WorldError:
    """The error as a caller of ``wait`` may expect it."""
    if isinstance(error, WorldError):
        return error
    return TransferError(f"{transfer.link_name}: {error}", tier=transfer.source.name)


def describe(transfer: Transfer) -> str:
    """A name for the timeline."""
    return f"{transfer.priority.name.lower()} {len(transfer.moves)} blocks"
