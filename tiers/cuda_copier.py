"""Copies to and from a CUDA device, on a stream of their own."""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch

from tiers.copier import Copier, Copy
from tiers.copies import Runs
from tiers.proven import Proven

CopyRuns = Callable[[torch.Tensor, torch.Tensor, Runs, torch.Tensor], None]
"""See ``tiers.scatter_kernel.copy_runs``."""

_FEW_RUNS = 8
_LARGE_RUN_NBYTES = 512 * 1024
"""From here on a run is worth a copy of its own, which costs some 15 µs to ask for."""

_WORD_NBYTES = 8
_LEAST_ROWS = 4096
"""Of a table, which is made once: as many as a link plans together."""


class CudaCopier(Copier):
    """For one direction and one thread, whose current stream it changes.

    Large ranges go through the copy engine, one call each. Many small ones would be bound by the calls: a kernel copies
    them all, through the device's window on pinned host memory. It takes some of the device's multiprocessors for that
    time, which the copy engine does not.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self.free_events: list[torch.cuda.Event] = []
        self.free_tables: list[torch.Tensor] = []

    def mark(self) -> object:
        event = torch.cuda.Event(blocking=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def reach(self, after: object) -> None:
        if isinstance(after, torch.cuda.Event):
            after.synchronize()

    def copy(self, source: torch.Tensor, target: torch.Tensor, runs: Runs, after: object) -> Copy:
        torch.cuda.set_stream(self._stream)
        if isinstance(after, torch.cuda.Event):
            self._stream.wait_event(after)
        table = None
        scatter = self._scatter(source, target, runs)
        if scatter is not None:
            table = self._table(len(runs))
            scatter(source, target, runs, table)
        else:
            for start, place, nbytes in runs.tolist():
                target[place : place + nbytes].copy_(source[start : start + nbytes], non_blocking=True)
        event = self.free_events.pop() if self.free_events else torch.cuda.Event(blocking=True)
        event.record(self._stream)
        return _CudaCopy(self, event, table)

    def _scatter(self, source: torch.Tensor, target: torch.Tensor, runs: Runs) -> CopyRuns | None:
        """The kernel for that many small ranges; None where they are few or large, or where it cannot be used."""
        if not _is_scattered(runs) or not _are_visible(source, target):
            return None
        scatter = _scatter_kernel(self._device)
        if scatter.flaw:
            self.note = f"small blocks are copied one by one: {scatter.flaw}"
        return scatter.value

    def _table(self, num_rows: int) -> torch.Tensor:
        if self.free_tables and len(self.free_tables[-1]) >= num_rows:
            return self.free_tables.pop()
        return torch.empty((max(_LEAST_ROWS, num_rows), 3), dtype=torch.int64, pin_memory=True)

    def close(self) -> None:
        self._stream.synchronize()


class _CudaCopy(Copy):
    """Ended when its event is, which then is free for another copy like the table that it read."""

    def __init__(self, copier: CudaCopier, event: torch.cuda.Event, table: torch.Tensor | None) -> None:
        self._copier = copier
        self._event = event
        self._table = table

    def is_done(self) -> bool:
        return bool(self._event.query())

    def wait(self) -> None:
        self._event.synchronize()
        self._copier.free_events.append(self._event)
        if self._table is not None:
            self._copier.free_tables.append(self._table)


def _is_scattered(runs: Runs) -> bool:
    if len(runs) <= _FEW_RUNS or int(runs[:, 2].sum()) >= len(runs) * _LARGE_RUN_NBYTES:
        return False
    return int(np.bitwise_or.reduce(runs, axis=None)) % _WORD_NBYTES == 0


def _are_visible(source: torch.Tensor, target: torch.Tensor) -> bool:
    return all(bool(tensor.is_cuda or tensor.is_pinned()) for tensor in (source, target))


@cache
def _scatter_kernel(device: torch.device) -> Proven[CopyRuns]:
    """A copier of many ranges that has proved that it works."""
    try:
        from tiers.scatter_kernel import copy_runs

        source = torch.arange(16).view(torch.uint8).pin_memory()
        target = torch.zeros(128, dtype=torch.uint8, device=device)
        table = torch.empty((2, 3), dtype=torch.int64, pin_memory=True)
        copy_runs(source, target, np.array([[0, 64, 64], [64, 0, 64]]), table)
        is_right = target.view(torch.int64).tolist() == [*range(8, 16), *range(8)]
    except Exception as error:  # noqa: BLE001 - whatever it is, there are slower ways
        return Proven.failed(error)
    return Proven(copy_runs) if is_right else Proven(None, "its kernel copies something else here")
