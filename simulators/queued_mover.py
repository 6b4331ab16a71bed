"""The simulator's TransferEngine with links that work request by request: what a generation is replayed on."""

from collections.abc import Callable, Mapping, Sequence

from simulators.modelled_link import VirtualClock
from simulators.modelled_mover import EmptyTier
from simulators.modelled_queue import DRIVEN, ModelledQueue, QueueCosts, QueuedTransfer
from simulators.virtual_mover import VirtualMover
from tiers.chunks import Move, plan_chunks
from tiers.io_queue import IOQueue
from tiers.link import Priority
from tiers.tier import Extent, Tier


class EmptyFile(EmptyTier):
    """A tier in files that holds no bytes; ``extents`` as those of the real one, or one after the other."""

    def __init__(
        self, name: str, num_slots: int, block_nbytes: int, extents: Sequence[Sequence[Extent]] | None = None
    ) -> None:
        super().__init__(name, num_slots, block_nbytes)
        self._extents = extents

    def extents(self, slot: int) -> Sequence[Extent]:
        """See SupportsDirectIO."""
        if self._extents is not None:
            return self._extents[slot]
        return (Extent(0, slot * self.block_nbytes, self.block_nbytes, self.block_nbytes),)

    def open_queue(self, depth: int) -> IOQueue:
        """There is nothing to read."""
        raise NotImplementedError("a modelled tier holds no bytes")


class QueuedMover(VirtualMover[QueuedTransfer]):
    """``links`` by their names, such as ``"nvme->device"``; KeyError for one that is missing."""

    def __init__(self, clock: VirtualClock, links: Mapping[str, QueueCosts]) -> None:
        super().__init__(clock)
        self.links = {name: ModelledQueue(clock, costs) for name, costs in links.items()}

    def submit(self, source: Tier, target: Tier, moves: Sequence[Move], priority: Priority) -> QueuedTransfer:
        """Start a transfer at the present time, cut into requests as the real engine cuts it."""
        return self.links[f"{source.name}->{target.name}"].submit(_requests(source, target, moves), priority)

    def compute(self, seconds: float, share: float) -> None:
        """Let the processor work; while links are busy it gets on at ``share`` of its speed."""
        clock, links = self.clock, self.links.values()
        while seconds > 0.0:
            soonest = min((link.next_event_s() for link in links if link.is_busy), default=None)
            if soonest is None:
                clock.advance(seconds)
                return
            elapsed = min(soonest, seconds / share)
            clock.advance(elapsed)
            seconds -= elapsed * share

    def rest(self) -> None:
        """Let time pass until nothing moves any more."""
        while any(link.is_busy for link in self.links.values()):
            self.clock.advance(min(link.next_event_s() for link in self.links.values() if link.is_busy))


def _requests(source: Tier, target: Tier, moves: Sequence[Move]) -> list[int]:
    """Bytes of each; between memories a request is a few blocks that are copied in a row."""
    if isinstance(source, EmptyFile):
        chunks = plan_chunks(source, _slot_of(target), moves, DRIVEN.chunk_nbytes, is_write=False)
        return [chunk.nbytes for chunk in chunks]
    if isinstance(target, EmptyFile):
        chunks = plan_chunks(target, _slot_of(source), moves, DRIVEN.chunk_nbytes, is_write=True)
        return [chunk.nbytes for chunk in chunks]
    per_copy = max(1, DRIVEN.memory_chunk_nbytes // source.block_nbytes)
    counts = [min(per_copy, len(moves) - first) for first in range(0, len(moves), per_copy)]
    return [count * source.block_nbytes for count in counts]


def _slot_of(memory: Tier) -> Callable[[int], range]:
    size = memory.block_nbytes
    return lambda slot: range(slot * size, (slot + 1) * size)
