"""A file whose requests are watched, and what the tests of the engine do with it."""

import threading
from collections.abc import Sequence

from tests.tiers.kit import content
from tiers.fault_injection import FaultPlan, FaultyTier
from tiers.io_queue import Completion, IOQueue, IORequest
from tiers.memory_tier import MemoryTier
from tiers.nvme_tier import NVMeTier
from tiers.tier import Tier
from tiers.transfer import Move, Priority, Transfer, TransferConfig, TransferEngine
from tiers.wrapper import TierWrapper

PAGE = 4096
BLOCK = 4 * PAGE
NUM_SLOTS = 12
ONE_AT_A_TIME = TransferConfig(queue_depth=1, chunk_nbytes=PAGE, stall_timeout_s=60)


class WatchedQueue(IOQueue):
    """Notes the file offsets of requests in the order in which they are started."""

    def __init__(self, inner: IOQueue, offsets: list[int], started: threading.Event) -> None:
        super().__init__(inner.depth)
        self._inner = inner
        self._offsets = offsets
        self._started = started

    def submit(self, requests: Sequence[IORequest]) -> None:
        self._inner.submit(requests)
        self.in_flight = self._inner.in_flight
        self._offsets += [request.offset for request in requests]
        self._started.set()

    def reap(self, minimum: int = 1, timeout_s: float | None = None) -> list[Completion]:
        done = self._inner.reap(minimum, timeout_s)
        self.in_flight = self._inner.in_flight
        return done

    def close(self) -> None:
        self._inner.close()


class WatchedTier(TierWrapper):
    """Tells which pages of a block have been asked for, in order."""

    def __init__(self, wrapped: FaultyTier) -> None:
        super().__init__(wrapped)
        self.faulty = wrapped
        self.offsets: list[int] = []
        self.started = threading.Event()

    @property
    def order(self) -> list[str]:
        """For example ``["3.0", "3.1"]``: the first two pages of slot 3."""
        return [f"{offset // BLOCK}.{offset % BLOCK // PAGE}" for offset in self.offsets]

    def _open_queue(self, depth: int) -> IOQueue:
        queue: IOQueue = self.faulty.open_queue(depth)
        return WatchedQueue(queue, self.offsets, self.started)


def broken(nvme: NVMeTier, **plan: object) -> FaultyTier:
    return FaultyTier(nvme, FaultPlan(**plan))  # type: ignore[arg-type]  # keywords of one call, passed on


def load(engine: TransferEngine, source: Tier, host: Tier, slots: Sequence[int], priority: Priority) -> Transfer:
    """Bring blocks to the slots of the same numbers."""
    return engine.submit(source, host, [Move(slot, slot) for slot in slots], priority)


def holds(host: MemoryTier, slots: Sequence[int]) -> bool:
    return all(host.view(slot) == content(slot, BLOCK) for slot in slots)


def start_and_hold(engine: TransferEngine, slow: WatchedTier, host: MemoryTier, slots: Sequence[int]) -> Transfer:
    """A prefetch whose first chunk is in flight and whose others wait, one at a time, behind it."""
    transfer = load(engine, slow, host, slots, Priority.PREFETCH)
    slow.started.wait()
    return transfer
