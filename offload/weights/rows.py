"""Single rows of a matrix that stays on the drive."""

import mmap
from collections.abc import Sequence

import torch
from torch import Tensor

from tiers.errors import TransferError
from tiers.io_queue import IOQueue, IORequest
from tiers.tier import ALIGNMENT, align_up
from tiers.weight_tier import TensorSpec, WeightTier

_ROWS_IN_FLIGHT = 16


class RowReader:
    """Reads rows of one tensor, many at a time. Opened with the first read; ``close`` gives its queue back."""

    def __init__(self, source: WeightTier, spec: TensorSpec) -> None:
        self._source = source
        self._name = spec.name
        self._row_nbytes = spec.row_nbytes
        # A row may begin anywhere in a page.
        self._room = align_up(spec.row_nbytes) + ALIGNMENT
        # Kept open: the kernel takes tens of milliseconds to take a queue down, longer than a token.
        self._queue: IOQueue | None = None
        self._scratch = memoryview(b"")

    def read(self, row_ids: Sequence[int], target: Tensor) -> None:
        """Fill ``target`` [rows, row size] with the rows of these ids. Raises TransferError."""
        if self._queue is None:
            self._queue = self._source.open_queue(_ROWS_IN_FLIGHT)
            self._scratch = memoryview(mmap.mmap(-1, self._room * _ROWS_IN_FLIGHT))
        raw = target.view(torch.uint8)
        try:
            for start in range(0, len(row_ids), _ROWS_IN_FLIGHT):
                self._read_some(self._queue, row_ids[start : start + _ROWS_IN_FLIGHT], raw[start:])
        except BaseException:
            self.close()  # what an interrupted read leaves in flight must not end up in the next one
            raise

    def close(self) -> None:
        """Idempotent."""
        if self._queue:
            self._queue.close()
            self._queue = None

    def _read_some(self, queue: IOQueue, row_ids: Sequence[int], raw: Tensor) -> None:
        located = [self._source.row_extent(self._name, row) for row in row_ids]
        queue.submit(
            [
                IORequest(tag, extent.fd, extent.offset, (self._buffer(tag, extent.nbytes),), is_write=False)
                for tag, (extent, _) in enumerate(located)
            ]
        )
        failure: TransferError | None = None
        for completion in queue.reap(len(located)):
            extent, inside = located[completion.tag]
            if completion.error or completion.nbytes < extent.required:
                reason = completion.error or f"{completion.nbytes} of {extent.required} bytes"
                failure = TransferError(f"{self._source.path}: row of {self._name}: {reason}", tier=self._source.name)
                continue
            begin = completion.tag * self._room + inside
            row = torch.frombuffer(self._scratch, dtype=torch.uint8, count=self._row_nbytes, offset=begin)
            raw[completion.tag] = row
        if failure:
            raise failure

    def _buffer(self, tag: int, nbytes: int) -> memoryview:
        return self._scratch[tag * self._room : tag * self._room + nbytes]
