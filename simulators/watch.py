"""A replay that is watched: what was busy when, what the levels held, and which blocks were found.

Clock and mover are those of any replay, and tell what they do besides. Nobody pays for it who uses the plain ones.
"""

from collections.abc import Mapping, Sequence

from simulators.activity import Activity
from simulators.modelled_link import ModelledTransfer, VirtualClock
from simulators.modelled_mover import COMPUTE, ModelledMover, Route
from tiers.block import BlockKey
from tiers.manager import TieredMemoryManager

STALL = "stall"


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


class WatchedMover(ModelledMover):
    """Tells which link worked from when to when, and when somebody waits."""

    def __init__(
        self,
        clock: WatchedClock,
        routes: Mapping[str, Route],
        capacities: Mapping[str, float] | None = None,
        decoding: Mapping[str, float] | None = None,
    ) -> None:
        self._activity = clock.activity
        super().__init__(clock, routes, capacities, on_work=self._note, decoding=decoding)

    def wait(self, transfer: ModelledTransfer) -> None:
        """Let time pass until a transfer has ended."""
        start = self.clock.now_s
        super().wait(transfer)
        self._activity.add(STALL, start, self.clock.now_s)

    def work_until_now(self) -> None:
        """What has been moved by now has been told then, also where nobody waits for it."""
        for wire in self._wires.values():
            wire.run()

    def _note(self, transfer: ModelledTransfer, start_s: float, end_s: float) -> None:
        self._activity.add(transfer.name, start_s, end_s)


class ReplayWatch:
    """Sees the levels after each prompt, and which blocks it found."""

    def __init__(self, manager: TieredMemoryManager, clock: WatchedClock) -> None:
        self.found: list[bool] = []
        """Of every access, in order."""
        self._manager = manager
        self._clock = clock
        self._evictions = self._write_backs = 0

    def prompt_computed(self, keys: Sequence[BlockKey], held: Sequence[BlockKey]) -> None:
        """One of a request that asked for ``keys``, of which some level had ``held``."""
        there = set(held)
        self.found += [key in there for key in keys]
        activity, now, stats = self._clock.activity, self._clock.now_s, self._manager.stats
        for level in self._manager.levels:
            activity.level(level.tier.name, now, level.pool.num_used)
        activity.count("evictions", now, stats.evictions - self._evictions)
        activity.count("write-backs", now, stats.write_backs - self._write_backs)
        self._evictions, self._write_backs = stats.evictions, stats.write_backs
