"""A replay that is watched: what was busy when, what the levels held, and which blocks were found.

Clock and mover are those of any replay, and tell what they do besides. Nobody pays for it who uses the plain ones.
"""

from collections import deque
from collections.abc import Sequence

from simulators.activity import Activity
from simulators.modelled_link import ModelledLink, ModelledTransfer, VirtualClock
from simulators.modelled_mover import ModelledMover, Route
from tiers.block import BlockKey
from tiers.manager import TieredMemoryManager

COMPUTE, STALL = "compute", "stall"


class WatchedClock(VirtualClock):
    """Time that passes because somebody computes."""

    __slots__ = ("activity",)

    def __init__(self, activity: Activity) -> None:
        super().__init__()
        self.activity = activity

    def advance(self, seconds: float) -> None:
        """Computation takes time."""
        start = self.now_s
        super().advance(seconds)
        self.activity.add(COMPUTE, start, self.now_s)


class WatchedLink(ModelledLink):
    """A wire that tells for which link it worked from when to when."""

    __slots__ = ("activity",)

    def __init__(self, clock: VirtualClock, activity: Activity) -> None:
        super().__init__(clock)
        self.activity = activity

    def _step(self, now: float) -> None:
        transfer, start = next(queue for queue in self._queues if queue)[0], self._until_s
        super()._step(now)
        if not transfer.has_ended:
            self.activity.add(transfer.name, start, self._until_s)

    def _end_first(self, queue: deque[ModelledTransfer]) -> None:
        transfer = queue[0]
        self.activity.add(transfer.name, self._until_s - transfer.remaining_s, self._until_s)
        super()._end_first(queue)


class WatchedMover(ModelledMover):
    """The mover of such links, which tells when somebody waits."""

    def __init__(self, clock: WatchedClock, routes: dict[str, Route]) -> None:
        super().__init__(clock, routes)
        self._activity = clock.activity
        self._wires = {wire: WatchedLink(clock, clock.activity) for wire in self._wires}

    def wait(self, transfer: ModelledTransfer) -> None:
        """Let time pass until a transfer has ended."""
        start = self.clock.now_s
        super().wait(transfer)
        self._activity.add(STALL, start, self.clock.now_s)

    def work_until_now(self) -> None:
        """What has been moved by now has been told then, also where nobody waits for it."""
        for wire in self._wires.values():
            wire.run()


class ReplayWatch:
    """Sees the levels after each request, and which blocks it found."""

    def __init__(self, manager: TieredMemoryManager, clock: WatchedClock) -> None:
        self.found: list[bool] = []
        """Of every access, in order."""
        self._manager = manager
        self._clock = clock
        self._evictions = self._write_backs = 0

    def request_ended(self, keys: Sequence[BlockKey], held: Sequence[BlockKey]) -> None:
        """One that asked for ``keys``, of which some level had ``held``."""
        there = set(held)
        self.found += [key in there for key in keys]
        activity, now, stats = self._clock.activity, self._clock.now_s, self._manager.stats
        for level in self._manager.levels:
            activity.level(level.tier.name, now, level.pool.num_used)
        activity.count("evictions", now, stats.evictions - self._evictions)
        activity.count("write-backs", now, stats.write_backs - self._write_backs)
        self._evictions, self._write_backs = stats.evictions, stats.write_backs
