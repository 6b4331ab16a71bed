"""A link in virtual time: transfers one after the other, in the order of their priorities, each as long as it takes."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from tiers.errors import TransferCancelledError, WorldError
from tiers.link import Priority


class VirtualClock:
    """Seconds since the start; goes forward only when somebody says by how much."""

    __slots__ = ("now_s",)

    def __init__(self) -> None:
        self.now_s = 0.0

    def advance(self, seconds: float) -> None:
        """Time passes."""
        assert seconds >= 0.0, "time does not go back"
        self.now_s += seconds

    def advance_to(self, time_s: float) -> None:
        """Wait until a time; does nothing where that is over."""
        self.now_s = max(self.now_s, time_s)


class ModelledTransfer:
    """A transfer, seen by the manager as one of the real engine."""

    __slots__ = ("error", "has_ended", "link", "name", "nbytes", "priority", "remaining_s")

    def __init__(self, link: "ModelledLink", nbytes: int, seconds: float, priority: Priority, name: str = "") -> None:
        self.link = link
        self.name = name
        """From where to where, which share the link with others."""
        self.nbytes = nbytes
        self.remaining_s = seconds
        self.priority = priority
        self.error: WorldError | None = None
        self.has_ended = False

    @property
    def is_done(self) -> bool:
        """Whether it has ended by now."""
        if not self.has_ended:
            self.link.run()
        return self.has_ended

    @is_done.setter
    def is_done(self, value: bool) -> None:
        self.has_ended = value


@dataclass(slots=True)
class LinkUse:
    """Counters of one direction."""

    nbytes: int = 0
    busy_s: float = 0.0
    num_blocks: int = 0


@dataclass(slots=True)
class ModelledLink:
    """What moves over one wire, or to and from one drive, shares it: one transfer at a time has all of it.

    A demand stops what is of lower priority at once and that goes on behind it, as with the real engine, which cuts
    blocks in chunks. Time is worked off when somebody asks: ``run`` up to now, ``finish`` up to the end of a transfer.
    """

    clock: VirtualClock
    busy_s: float = 0.0
    _until_s: float = 0.0
    """Up to when time has been worked off."""
    _queues: Sequence[deque[ModelledTransfer]] = field(default_factory=lambda: [deque() for _ in Priority])
    _num_waiting: int = 0

    def submit(self, transfer: ModelledTransfer) -> None:
        """Queue a transfer behind those of its priority."""
        self.run()
        self._queues[transfer.priority].append(transfer)
        self._num_waiting += 1
        self.busy_s += transfer.remaining_s

    def run(self) -> None:
        """Work until now."""
        now = self.clock.now_s
        while self._num_waiting and self._until_s < now:
            self._step(now)
        self._until_s = max(self._until_s, now)

    def finish(self, transfer: ModelledTransfer) -> None:
        """Let the clock run until a transfer has ended; it is a demand now, since somebody waits for it."""
        self.run()
        if transfer.is_done:
            return
        self._expedite(transfer)
        while not transfer.has_ended:
            queue = next(queue for queue in self._queues if queue)
            self._until_s += queue[0].remaining_s
            self._end_first(queue)
        self.clock.advance_to(self._until_s)

    def cancel(self, transfer: ModelledTransfer) -> bool:
        """Drop a transfer that has not ended. What it has moved so far is lost."""
        if transfer.is_done:
            return False
        self._queues[transfer.priority].remove(transfer)
        self._num_waiting -= 1
        self.busy_s -= transfer.remaining_s
        transfer.error = TransferCancelledError("the transfer was cancelled")
        transfer.is_done = True
        return True

    def _expedite(self, transfer: ModelledTransfer) -> None:
        if transfer.priority is not Priority.DEMAND:
            self._queues[transfer.priority].remove(transfer)
            transfer.priority = Priority.DEMAND
            self._queues[Priority.DEMAND].append(transfer)

    def _step(self, now: float) -> None:
        """Work on the first transfer until it ends, or until now."""
        queue = next(queue for queue in self._queues if queue)
        transfer = queue[0]
        available = now - self._until_s
        if transfer.remaining_s <= available:
            self._until_s += transfer.remaining_s
            self._end_first(queue)
        else:
            transfer.remaining_s -= available
            self._until_s = now

    def _end_first(self, queue: deque[ModelledTransfer]) -> None:
        transfer = queue.popleft()
        transfer.remaining_s = 0.0
        transfer.is_done = True
        self._num_waiting -= 1
