"""Copies to and from a CUDA device, on a stream of their own."""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch

from tiers.copier import Copier, Copy
from tiers.copies import Runs

_FEW_RUNS = 8
_LARGE_RUN_NBYTES = 512 * 1024
"""From here on a run is worth a copy of its own: the copy engine needs some 10 µs for it, the call half of that."""


class CudaCopier(Copier):
    """One stream, one direction.

    Large ranges go through the copy engine, one call each. Many small ones would be bound by the calls: a kernel copies
    them all, through the device's window on pinned host memory.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._events: list[torch.cuda.Event] = []

    def mark(self) -> object:
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        return event

    def copy(self, source: torch.Tensor, target: torch.Tensor, runs: Runs, after: object) -> Copy:
        with torch.cuda.stream(self._stream):
            if isinstance(after, torch.cuda.Event):
                self._stream.wait_event(after)
            kept: object = None
            scatter = _scatter_kernel(self._device) if _is_scattered(runs) and _are_visible(source, target) else None
            if scatter is not None:
                kept = scatter(source, target, runs)
            else:
                for start, place, nbytes in runs.tolist():
                    target[place : place + nbytes].copy_(source[start : start + nbytes], non_blocking=True)
            event = self._events.pop() if self._events else torch.cuda.Event(blocking=True)
            event.record(self._stream)
        return _CudaCopy(event, self._events, kept)

    def close(self) -> None:
        self._stream.synchronize()


class _CudaCopy(Copy):
    """Ended when its event is, which then is free for another copy. ``kept`` is what the copy reads besides."""

    def __init__(self, event: torch.cuda.Event, free: list[torch.cuda.Event], kept: object) -> None:
        self._event = event
        self._free = free
        self._kept = kept

    def is_done(self) -> bool:
        return bool(self._event.query())

    def wait(self) -> None:
        self._event.synchronize()
        self._free.append(self._event)
        self._kept = None


def _is_scattered(runs: Runs) -> bool:
    return len(runs) > _FEW_RUNS and int(runs[:, 2].sum()) < len(runs) * _LARGE_RUN_NBYTES


def _are_visible(source: torch.Tensor, target: torch.Tensor) -> bool:
    return all(bool(tensor.is_cuda or tensor.is_pinned()) for tensor in (source, target))


@cache
def _scatter_kernel(device: torch.device) -> Callable[[torch.Tensor, torch.Tensor, Runs], object] | None:
    """A copier of many ranges that has proved that it works; None where Triton or its compiler is missing."""
    try:
        from tiers.scatter_kernel import copy_runs

        source = torch.arange(16).view(torch.uint8).pin_memory()
        target = torch.zeros(128, dtype=torch.uint8, device=device)
        kept = copy_runs(source, target, np.array([[0, 64, 64], [64, 0, 64]]))
        is_right = target.view(torch.int64).tolist() == [*range(8, 16), *range(8)]
        del kept
    except Exception:  # noqa: BLE001 - whatever it is, there are slower ways
        return None
    return copy_runs if is_right else None
