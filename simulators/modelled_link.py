"""A link in virtual time: transfers one after the other, in the order of their priorities, each as long as it takes."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from simulators.pace import paces
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
    """A transfer, seen by the manager as one of the real engine.

    ``name`` is from where to where: several such share a link. ``remaining_s`` is how long it would take yet if nothing
    else moved; ``rates`` are the bytes a second that it then takes of what links share.
    """

    __slots__ = ("error", "has_ended", "link", "name", "nbytes", "priority", "rates", "remaining_s")

    def __init__(
        self,
        link: "ModelledLink",
        nbytes: int,
        seconds: float,
        priority: Priority,
        name: str = "",
        rates: Mapping[str, float] | None = None,
    ) -> None:
        self.link = link
        self.name = name
        self.nbytes = nbytes
        self.remaining_s = seconds
        self.priority = priority
        self.rates = rates or {}
        self.error: WorldError | None = None
        self.has_ended = False

    @property
    def is_done(self) -> bool:
        """Whether it has ended by now."""
        if not self.has_ended:
            self.link.group.run()
        return self.has_ended

    @is_done.setter
    def is_done(self, value: bool) -> None:
        self.has_ended = value


@dataclass(slots=True)
class LinkUse:
    """Counters of one direction."""

    nbytes: int = 0
    busy_s: float = 0.0
    """As long as its transfers would have taken had nothing else moved."""
    num_blocks: int = 0


OnWork = Callable[[ModelledTransfer, float, float], None]
"""Is told of a transfer that it moved, alone or beside others, from one time to another."""


class LinkGroup:
    """Links that share what their transfers pass through; ``capacities`` are its bytes a second.

    While those at the head of their links want more of something than there is, each has the same share of what it
    wants. Time is worked off when somebody asks: ``run`` up to now, ``finish`` up to the end of a transfer.
    """

    def __init__(
        self, clock: VirtualClock, capacities: Mapping[str, float] | None = None, on_work: OnWork | None = None
    ) -> None:
        self.clock = clock
        self._capacities = capacities or {}
        self._on_work = on_work
        self._links: list[ModelledLink] = []
        self._until_s = 0.0
        """Up to when time has been worked off."""

    def link(self) -> "ModelledLink":
        """One more."""
        link = ModelledLink(self)
        self._links.append(link)
        return link

    def run(self) -> None:
        """Work until now."""
        now = self.clock.now_s
        if self._until_s < now:
            while self._until_s < now and self._step(now):
                pass
            self._until_s = now

    def finish(self, transfer: ModelledTransfer) -> None:
        """Let the clock run until a transfer has ended."""
        while not transfer.has_ended:
            self._step(float("inf"))
        self.clock.advance_to(self._until_s)

    def rest(self) -> None:
        """Let the clock run until nothing waits."""
        self.run()
        while self._step(float("inf")):
            pass
        self.clock.advance_to(self._until_s)

    def _step(self, now: float) -> bool:
        """Work until the first transfer ends, or until now; False where nothing waits."""
        moving = [link.first for link in self._links if link.first is not None]
        if not moving:
            return False
        start = self._until_s
        self._work(moving, now)
        if self._on_work is not None:
            for transfer in moving:
                self._on_work(transfer, start, self._until_s)
        return True

    def _work(self, moving: Sequence[ModelledTransfer], now: float) -> None:
        """Each of these has its link."""
        available = now - self._until_s
        if len(moving) == 1:
            (transfer,) = moving
            if transfer.remaining_s <= available:
                self._until_s += transfer.remaining_s
                transfer.link.end_first()
            else:
                transfer.remaining_s -= available
                self._until_s = now
            return
        shares = paces([transfer.rates for transfer in moving], self._capacities)
        ends = [transfer.remaining_s / share for transfer, share in zip(moving, shares, strict=True)]
        soonest = min(ends)
        seconds = min(soonest, available)
        for transfer, share, end_s in zip(moving, shares, ends, strict=True):
            if end_s == soonest and soonest <= available:
                transfer.link.end_first()
            else:
                transfer.remaining_s = max(0.0, transfer.remaining_s - seconds * share)
        self._until_s = self._until_s + soonest if soonest <= available else now


@dataclass(slots=True)
class ModelledLink:
    """What moves over one wire, or to and from one drive, shares it: one transfer at a time has all of it.

    A demand stops what is of lower priority at once and that goes on behind it, as with the real engine, which cuts
    blocks in chunks.
    """

    group: LinkGroup
    busy_s: float = 0.0
    first: ModelledTransfer | None = None
    """What has the link now."""
    _queues: Sequence[deque[ModelledTransfer]] = field(default_factory=lambda: [deque() for _ in Priority])

    def submit(self, transfer: ModelledTransfer) -> None:
        """Queue a transfer behind those of its priority."""
        self.run()
        self._queues[transfer.priority].append(transfer)
        if self.first is None or transfer.priority < self.first.priority:
            self.first = transfer
        self.busy_s += transfer.remaining_s

    def run(self) -> None:
        """Work until now."""
        self.group.run()

    def finish(self, transfer: ModelledTransfer) -> None:
        """Let the clock run until a transfer has ended; it is a demand now, since somebody waits for it."""
        if transfer.is_done:
            return
        self._expedite(transfer)
        self.group.finish(transfer)

    def cancel(self, transfer: ModelledTransfer) -> bool:
        """Drop a transfer that has not ended. What it has moved so far is lost."""
        if transfer.is_done:
            return False
        self._queues[transfer.priority].remove(transfer)
        self._choose()
        self.busy_s -= transfer.remaining_s
        transfer.error = TransferCancelledError("the transfer was cancelled")
        transfer.is_done = True
        return True

    def end_first(self) -> None:
        """It has moved all of its bytes."""
        transfer = self.first
        assert transfer is not None, "nothing has the link"
        self._queues[transfer.priority].popleft()
        transfer.remaining_s = 0.0
        transfer.is_done = True
        self._choose()

    def _expedite(self, transfer: ModelledTransfer) -> None:
        if transfer.priority is not Priority.DEMAND:
            self._queues[transfer.priority].remove(transfer)
            transfer.priority = Priority.DEMAND
            self._queues[Priority.DEMAND].append(transfer)
            self._choose()

    def _choose(self) -> None:
        for queue in self._queues:
            if queue:
                self.first = queue[0]
                return
        self.first = None
