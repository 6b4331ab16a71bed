"""One direction between memory and files: requests to a drive, a bounded number of them at a time."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import count
from typing import Any

from tiers.checksum import UNSEALED, BlockChecksums
from tiers.chunked_link import ChunkedLink, Job
from tiers.chunks import plan_chunks
from tiers.errors import TransferError
from tiers.io_queue import Completion, IOQueue, IORequest
from tiers.link import Batch, Transfer
from tiers.tier import SupportsChecksum, SupportsDirectIO, SupportsView, Tier
from tiers.timeline import Timeline


class FileLink(ChunkedLink):
    """Between memory and files: as many chunks in flight as the queue is deep, across transfers.

    The checksum of a block is put together from those of its pieces, each taken while it is in memory and the drive at
    work on others.
    """

    def __init__(
        self,
        name: str,
        finished: threading.Condition,
        timeline: Timeline | None,
        queue: IOQueue,
        chunk_nbytes: int,
        guess_depth: int,
        *,
        is_write: bool,
    ) -> None:
        self._is_write = is_write
        self._queue = queue
        self._chunk_nbytes = chunk_nbytes
        self._by_tag: dict[int, Job] = {}
        self._tags = count()
        super().__init__(name, finished, timeline, guess_depth)

    def _cut(self, transfer: Transfer) -> Iterator[Batch]:
        files, memory = self._sides(transfer)
        assert isinstance(files, SupportsDirectIO)
        if isinstance(files, SupportsChecksum):
            transfer.checksums = BlockChecksums()
            if self._is_write:
                for move in transfer.moves:
                    files.seal(move.target_slot, UNSEALED)
        yield Batch(self._cut_for(files, memory, transfer), is_last=True)

    def _cut_for(self, files: SupportsDirectIO, memory: Tier, transfer: Transfer) -> Sequence[Any]:
        assert isinstance(memory, SupportsView)
        return plan_chunks(files, memory.view, transfer.moves, self._chunk_nbytes, is_write=self._is_write)

    def _has_room(self, num_more: int) -> bool:
        return self._queue.in_flight + num_more < self._queue.depth

    def _begin(self, jobs: Sequence[Job]) -> None:
        if self._is_write:
            for job in jobs:
                self._sum(job, job.chunk.buffers)
        self._request([(job, job.chunk.buffers) for job in jobs])

    def _request(self, jobs: Sequence[tuple[Job, tuple[memoryview, ...]]]) -> None:
        requests = []
        for job, buffers in jobs:
            tag = next(self._tags)
            self._by_tag[tag] = job
            requests.append(IORequest(tag, job.chunk.fd, job.chunk.offset, buffers, self._is_write))
        self._queue.submit(requests)

    def _advance(self) -> None:
        landed = self._reap()
        self._start_chunks()  # so that the drive has work while checksums are computed
        for job in landed:
            if not self._is_write:
                self._sum(job, job.chunk.buffers)
            self._end(job)

    def _reap(self, timeout_s: float | None = None) -> list[Job]:
        """The chunks that the drive is done with, well or not."""
        landed = []
        for completion in self._queue.reap(1, timeout_s):
            job = self._by_tag.pop(completion.tag, None)  # None: of a transfer that ``_fail_all`` has ended
            if job is not None:
                self._record(job, completion.nbytes)
                self._note(job, completion)
                landed.append(job)
        return landed

    def _note(self, job: Job, completion: Completion) -> None:
        error, nbytes, chunk = completion.error, completion.nbytes, job.chunk
        if error is not None:
            self._fail(job.transfer, TransferError(f"{self.name}: {error.strerror or error}", tier=self.name))
        elif nbytes < chunk.required:
            short = f"{self.name}: {nbytes} of {chunk.required} bytes moved at offset {chunk.offset}"
            self._fail(job.transfer, TransferError(short, tier=self.name))

    def _sum(self, job: Job, buffers: Sequence[memoryview]) -> None:
        checksums = job.transfer.checksums
        if checksums is not None and job.transfer.error is None:
            for (move, position), buffer in zip(job.chunk.places, buffers, strict=True):
                checksums.add(move, position, buffer)

    def _conclude(self, transfer: Transfer) -> None:
        files, _ = self._sides(transfer)
        if transfer.checksums is None or not isinstance(files, SupportsChecksum):
            return
        for (source_slot, target_slot), checksum in transfer.checksums.totals():
            if self._is_write:
                files.seal(target_slot, checksum)
            else:
                files.verify(source_slot, checksum)

    def _drain(self) -> None:
        with suppress(Exception):
            while self._queue.in_flight:
                self._queue.reap()  # until then the drive may still write into slots that are about to be free
        self._by_tag.clear()

    def _shut(self) -> None:
        self._queue.close()

    def _sides(self, transfer: Transfer) -> tuple[Tier, Tier]:
        """The tier in files and the one in memory."""
        return (transfer.target, transfer.source) if self._is_write else (transfer.source, transfer.target)
