"""One direction between files and a device, through a small ring of pinned host memory."""

import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate
from typing import Any, cast

from tiers.chunked_link import Job
from tiers.chunks import plan_chunks
from tiers.copier import Copier, Copy, as_tensor
from tiers.copies import Runs, join_neighbours
from tiers.file_link import FileLink
from tiers.io_queue import IOQueue
from tiers.link import Transfer
from tiers.memory_tier import MemoryTier
from tiers.pinned_tier import PinnedTier
from tiers.tier import SupportsDirectIO, SupportsMemory, Tier
from tiers.timeline import Timeline

_POLL_S = 0.0005
"""How long a request may keep us from noticing that a copy has ended."""


class StagedFileLink(FileLink):
    """A FileLink whose requests land in slots of ``ring``, from where the device fetches them, or the other way round.

    A chunk holds a slot of the ring from its start to its end; there are twice as many as requests in flight, so that
    the drive goes on while chunks are copied and their checksums taken, both in the ring. The link closes it.
    """

    def __init__(
        self,
        name: str,
        finished: threading.Condition,
        timeline: Timeline | None,
        queue: IOQueue,
        guess_depth: int,
        copier: Copier,
        ring: MemoryTier,
        *,
        is_write: bool,
    ) -> None:
        self._copier = copier
        self._ring = ring
        self._free = list(range(ring.num_slots))
        self._copies: deque[tuple[Job, Copy]] = deque()
        super().__init__(name, finished, timeline, queue, ring.block_nbytes, guess_depth, is_write=is_write)

    @property
    def notes(self) -> list[str]:
        ring = self._ring
        pageable = [f"its buffers are {ring.note}"] if isinstance(ring, PinnedTier) and not ring.is_pinned else []
        return [*super().notes, *pageable, *filter(None, [self._copier.note])]

    def submit(self, transfer: Transfer) -> None:
        transfer.after = self._copier.mark()
        super().submit(transfer)

    def _cut_for(self, files: SupportsDirectIO, memory: Tier, transfer: Transfer) -> Sequence[Any]:
        assert isinstance(memory, SupportsMemory)
        range_of = memory.layout().range_of
        return plan_chunks(files, range_of, transfer.moves, self._chunk_nbytes, is_write=self._is_write)

    def _has_room(self, num_more: int) -> bool:
        # What is being copied out of the device will need the drive too.
        waiting = num_more + (len(self._copies) if self._is_write else 0)
        return super()._has_room(waiting) and num_more < len(self._free)

    def _begin(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            job.ring_slot = self._free.pop()
            if self._is_write:
                self._copy(job, to_ring=True)
        if not self._is_write:
            self._request([(job, (self._staged(job),)) for job in jobs])

    def _advance(self) -> None:
        is_drive_idle = not self._queue.in_flight
        if not is_drive_idle:
            landed = self._reap(_POLL_S if self._copies else None)
            self._start_chunks()
            for job in landed:
                self._land(job)
        while self._copies and (is_drive_idle or self._copies[0][1].is_done()):
            job, copy = self._copies.popleft()
            copy.wait()
            self._after_copy(job)
            is_drive_idle = False  # one at a time: there may be room for a request now

    def _land(self, job: Job) -> None:
        """The drive is done with a chunk."""
        if self._is_write or job.transfer.error is not None:
            self._leave_ring(job)
            return
        self._copy(job, to_ring=False)
        self._sum(job, self._parts(job))  # while the device copies

    def _after_copy(self, job: Job) -> None:
        """The device is done with a chunk."""
        if not self._is_write or job.transfer.error is not None:
            self._leave_ring(job)
            return
        self._sum(job, self._parts(job))
        self._request([(job, (self._staged(job),))])

    def _leave_ring(self, job: Job) -> None:
        self._free.append(job.ring_slot)
        self._end(job)

    def _copy(self, job: Job, *, to_ring: bool) -> None:
        _, memory = self._sides(job.transfer)
        device, ring = as_tensor(cast("SupportsMemory", memory).flat()), as_tensor(self._ring.flat())
        source, target = (device, ring) if to_ring else (ring, device)
        runs = self._runs(job, to_ring=to_ring)
        self._copies.append((job, self._copier.copy(source, target, runs, job.transfer.after)))

    def _runs(self, job: Job, *, to_ring: bool) -> Runs:
        staged = job.ring_slot * self._ring.block_nbytes
        runs = []
        for part in job.chunk.buffers:
            runs.append((part.start, staged, len(part)) if to_ring else (staged, part.start, len(part)))
            staged += len(part)
        return join_neighbours(runs)

    def _staged(self, job: Job) -> memoryview:
        return self._ring.view(job.ring_slot)[: job.chunk.nbytes]

    def _parts(self, job: Job) -> list[memoryview]:
        """The bytes in the ring, part by part."""
        staged = self._staged(job)
        ends = list(accumulate(map(len, job.chunk.buffers)))
        return [staged[end - len(part) : end] for part, end in zip(job.chunk.buffers, ends, strict=True)]

    def _drain(self) -> None:
        super()._drain()
        with suppress(Exception):
            self._copier.close()
        self._copies.clear()
        self._free = list(range(self._ring.num_slots))

    def _shut(self) -> None:
        super()._shut()
        self._copier.close()
        self._ring.close()
