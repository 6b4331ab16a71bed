"""A link to or from a drive in virtual time, request by request, as ``tiers.file_link`` drives the real one.

What is in flight shares the drive evenly, so that requests that set out together also end together. Then the link's one
thread looks at them: starts others in their place, and only then takes their checksums, one after the other. Nothing
that is in flight can be overtaken; what is not goes by priority.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from simulators.modelled_link import LinkUse, VirtualClock
from tiers.errors import TransferCancelledError, WorldError
from tiers.link import Priority
from tiers.transfer import TransferConfig

DRIVEN = TransferConfig()
"""How the real links are driven, unless somebody says otherwise."""

_NOTHING_LEFT = 1e-12
"""Seconds. What is left of a request by rounding."""


@dataclass(frozen=True, slots=True)
class QueueCosts:
    """What a link costs. All in seconds but ``bytes_per_s``, which is of requests of so many bytes, many in flight."""

    bytes_per_s: Callable[[int], float]
    latency_s: float = 0.0
    """The least that a request takes, however few are in flight."""
    transfer_s: float = 0.0
    """Besides its requests: handing a transfer over to the thread, and waking whoever waits for it."""
    request_s: float = 0.0
    """Processor time of the thread for one request."""
    byte_s: float = 0.0
    """Processor time of the thread for one byte: checksums."""
    depth: int = DRIVEN.queue_depth
    guess_depth: int = DRIVEN.guess_depth


class QueuedTransfer:
    """A transfer, seen by the manager as one of the real engine."""

    __slots__ = ("chunks", "ends_at", "error", "has_failed", "link", "num_in_flight", "priority", "starts_at")

    def __init__(self, link: "ModelledQueue", chunks: Sequence[int], priority: Priority, starts_at: float) -> None:
        self.link = link
        self.chunks = deque(chunks)
        """Bytes of the requests that have not set out."""
        self.priority = priority
        self.starts_at = starts_at
        self.num_in_flight = 0
        self.ends_at: float | None = None
        """Known as soon as its last request has been looked at."""
        self.error: WorldError | None = None

    @property
    def is_done(self) -> bool:
        """Whether it has ended by now."""
        self.link.run()
        return self.ends_at is not None and self.ends_at <= self.link.clock.now_s


class _Request:
    __slots__ = ("is_guess", "left_s", "nbytes", "not_before", "transfer")

    def __init__(self, transfer: QueuedTransfer, nbytes: int, left_s: float, not_before: float) -> None:
        self.transfer = transfer
        self.nbytes = nbytes
        self.left_s = left_s
        """Seconds, if it had the drive for itself."""
        self.not_before = not_before
        self.is_guess = transfer.priority is Priority.GUESS


class ModelledQueue:
    """See the module. Time is worked off when somebody asks: ``run`` up to now, ``finish`` up to a transfer's end."""

    def __init__(self, clock: VirtualClock, costs: QueueCosts) -> None:
        self.clock = clock
        self.use = LinkUse()
        self._costs = costs
        self._until_s = 0.0
        """Up to when time has been worked off."""
        self._thread_free_at = 0.0
        self._queues: Sequence[deque[QueuedTransfer]] = [deque() for _ in Priority]
        self._in_flight: list[_Request] = []
        self._landed: list[_Request] = []
        self._num_guesses = 0

    @property
    def is_busy(self) -> bool:
        """Whether requests are in flight or waiting, now."""
        self.run()
        return bool(self._in_flight or self._landed or any(self._queues))

    def submit(self, chunks: Sequence[int], priority: Priority) -> QueuedTransfer:
        """Queue requests of so many bytes each behind those of their priority."""
        self.run()
        transfer = QueuedTransfer(self, chunks, priority, self.clock.now_s + self._costs.transfer_s / 2)
        self._queues[priority].append(transfer)
        return transfer

    def run(self) -> None:
        """Work until now."""
        while self._until_s < self.clock.now_s and self._step(self.clock.now_s):
            pass
        self._until_s = max(self._until_s, self.clock.now_s)

    def next_event_s(self) -> float:
        """Seconds from now until something changes, at most; infinite where nothing is under way."""
        self.run()
        return max(self._next_time() - self.clock.now_s, 1e-9)

    def finish(self, transfer: QueuedTransfer) -> None:
        """Let the clock run until a transfer has ended; it is a demand now, since somebody waits for it."""
        self.run()
        if transfer.priority is not Priority.DEMAND and transfer in self._queues[transfer.priority]:
            self._queues[transfer.priority].remove(transfer)
            self._queues[Priority.DEMAND].append(transfer)
        transfer.priority = Priority.DEMAND
        while transfer.ends_at is None:
            advanced = self._step(float("inf"))
            assert advanced or transfer.ends_at is not None, "a transfer that nothing moves"
        self.clock.advance_to(transfer.ends_at)

    def cancel(self, transfer: QueuedTransfer) -> bool:
        """Drop the requests that have not set out; True if none of them had. See TransferEngine."""
        self.run()
        if transfer.ends_at is not None or transfer not in self._queues[transfer.priority]:
            return False
        self._queues[transfer.priority].remove(transfer)
        transfer.chunks.clear()
        transfer.error = TransferCancelledError("the transfer was cancelled")
        if transfer.num_in_flight:
            return False
        transfer.ends_at = self.clock.now_s
        return True

    def _next(self) -> QueuedTransfer | None:
        """The transfer that goes first."""
        for priority, queue in zip(Priority, self._queues, strict=True):
            if not queue or queue[0].starts_at > self._until_s:
                continue
            if priority is Priority.GUESS and self._num_guesses >= self._costs.guess_depth:
                continue
            return queue[0]
        return None

    def _start(self) -> None:
        """Fill the queue of the drive."""
        costs = self._costs
        while len(self._in_flight) < costs.depth and (transfer := self._next()) is not None:
            nbytes = transfer.chunks.popleft()
            if not transfer.chunks:
                self._queues[transfer.priority].popleft()
            transfer.num_in_flight += 1
            self._num_guesses += transfer.priority is Priority.GUESS
            left_s = nbytes / costs.bytes_per_s(nbytes)
            self._in_flight.append(_Request(transfer, nbytes, left_s, self._until_s + costs.latency_s))

    def _next_time(self) -> float:
        """When something happens next."""
        count, times = len(self._in_flight), []
        if self._landed or (count < self._costs.depth and self._next() is not None):
            times.append(self._thread_free_at)  # it is what they wait for, if for anything
        if count:
            times.append(min(max(self._until_s + r.left_s * count, r.not_before) for r in self._in_flight))
        if count < self._costs.depth:
            times += [queue[0].starts_at for queue in self._queues if queue and queue[0].starts_at > self._until_s]
        return max(self._until_s, min(times)) if times else float("inf")

    def _step(self, limit: float) -> bool:
        """Go on to the next event, or to ``limit``; False where nothing is under way."""
        if self._thread_free_at <= self._until_s:
            self._look()
        time = min(self._next_time(), limit)
        if time == float("inf"):
            return False
        elapsed, self._until_s = time - self._until_s, time
        count = len(self._in_flight)
        if count:
            self.use.busy_s += elapsed
            share = elapsed / count
            landed = []
            for request in self._in_flight:
                request.left_s = max(0.0, request.left_s - share)
                if request.left_s <= _NOTHING_LEFT and request.not_before <= time + _NOTHING_LEFT:
                    landed.append(request)
            if landed:
                self._in_flight = [request for request in self._in_flight if request not in landed]
                self._landed += landed
        return True

    def _look(self) -> None:
        """The thread: start requests in the place of those that have landed, then see to these."""
        landed, self._landed = self._landed, []
        for request in landed:
            self._num_guesses -= request.is_guess
        self._start()
        at = self._until_s
        for request in landed:
            at += self._costs.request_s + request.nbytes * self._costs.byte_s
            self.use.nbytes += request.nbytes
            transfer = request.transfer
            transfer.num_in_flight -= 1
            if not transfer.num_in_flight and not transfer.chunks:
                transfer.ends_at = at + self._costs.transfer_s / 2
        self._thread_free_at = max(self._thread_free_at, at)
