"""What movers in virtual time do alike: time passes for whoever waits."""

from typing import Generic, TypeVar

from simulators.modelled_link import ModelledTransfer, VirtualClock
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
