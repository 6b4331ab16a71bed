"""One direction between host memory and the memory of a device, or between two devices."""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import cast

from tiers.chunked_link import ChunkedLink, Job
from tiers.copier import Copier, Copy, as_tensor
from tiers.copies import plan_copies
from tiers.link import Batch, Transfer
from tiers.tier import SupportsMemory
from tiers.timeline import Timeline

_FIRST_BATCH = 512
"""Moves that are planned before the first is copied; while it is, twice as many, and so on."""
_BATCH = 4096
"""At most. What small blocks cost the host is paid for each batch, and those that follow are planned beside copies."""


class DeviceLink(ChunkedLink):
    """Copies by the engines of the device: some chunks under way, so that they never wait for this thread.

    Slots of a device may still be in use by work that it has been given but not done. A copy therefore starts after
    all that the caller's stream had been given when the transfer was submitted, and a transfer is done only when the
    copy has ended: work submitted after that sees it.
    """

    def __init__(
        self,
        name: str,
        finished: threading.Condition,
        timeline: Timeline | None,
        copier: Copier,
        chunk_nbytes: int,
        depth: int,
    ) -> None:
        self._copier = copier
        self._chunk_nbytes = chunk_nbytes
        self._depth = depth
        self._copies: deque[tuple[Job, Copy]] = deque()
        super().__init__(name, finished, timeline)

    @property
    def notes(self) -> list[str]:
        return [*super().notes, *filter(None, [self._copier.note])]

    def submit(self, transfer: Transfer) -> None:
        transfer.after = self._copier.mark()
        super().submit(transfer)

    def _cut(self, transfer: Transfer) -> Iterator[Batch]:
        source, target = transfer.source, transfer.target
        assert isinstance(source, SupportsMemory)
        assert isinstance(target, SupportsMemory)
        moves = transfer.moves
        first, size = 0, _FIRST_BATCH
        while first < len(moves):
            last = first + size
            chunks = plan_copies(source.layout(), target.layout(), moves[first:last], self._chunk_nbytes)
            yield Batch(chunks, is_last=last >= len(moves))
            first, size = last, min(2 * size, _BATCH)

    def _has_room(self, num_more: int) -> bool:
        return len(self._copies) + num_more < self._depth

    def _begin(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            source, target = job.transfer.source, job.transfer.target
            ends = as_tensor(cast("SupportsMemory", source).flat()), as_tensor(cast("SupportsMemory", target).flat())
            self._copies.append((job, self._copier.copy(*ends, job.chunk.runs, job.transfer.after)))

    def _advance(self) -> None:
        if self._copies:
            job, copy = self._copies.popleft()
            copy.wait()
            self._record(job, job.chunk.nbytes)
            self._end(job)

    def _drain(self) -> None:
        with suppress(Exception):
            self._copier.close()
        self._copies.clear()

    def _shut(self) -> None:
        self._copier.close()
