"""What movers in virtual time do alike: time passes for whoever waits."""

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from simulators.modelled_link import LinkUse, ModelledTransfer, VirtualClock
from simulators.modelled_queue import QueuedTransfer

T = TypeVar("T", ModelledTransfer, QueuedTransfer)


class VirtualMover(Generic[T]):
    """A Mover but for ``submit``."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.stall_s = 0.0
        """Seconds for which somebody waited for a transfer."""

    def wait(self, transfer: T) -> None:
        """Let time pass until a transfer has ended; raises what stopped it."""
        if not transfer.is_done:
            start = self.clock.now_s
            transfer.link.finish(transfer)
            self.stall_s += self.clock.now_s - start
        if transfer.error is not None:
            raise transfer.error

    def cancel(self, transfer: T) -> bool:
        """Drop what has not moved yet; True if its slots are free for others."""
        return transfer.link.cancel(transfer)


class VirtualPace:
    """Virtual time, and counters of modelled links. See ``prefetch.expert_waves.Pace``."""

    def __init__(self, mover: VirtualMover[Any], uses: Callable[[], Iterable[LinkUse]]) -> None:
        """``uses`` gives the counters, by now, of the links over which experts come."""
        self._mover = mover
        self._uses = uses

    def now_s(self) -> float:
        return self._mover.clock.now_s

    def waited_s(self) -> float:
        return self._mover.stall_s

    def delivered(self) -> tuple[int, float]:
        uses = list(self._uses())
        return sum(use.nbytes for use in uses), sum(use.busy_s for use in uses)
