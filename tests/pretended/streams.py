"""Streams and events that know what comes after what, and tell of two uses of memory that nothing orders.

Every operation runs when it is given, but a stream has a clock (Lamport, 1978, as vectors: Mattern, 1988): what it is
known to have seen of the others. Two uses of the same bytes, one of them a write, on two streams of which neither has
seen the other's are a race, however they happened to come out.
"""

import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any
from weakref import WeakSet

import torch

Clock = dict[int, int]
"""How many operations of each stream have been seen, by its number."""

races: list[str] = []
"""What nothing orders, and where it was asked for."""

_lock = threading.RLock()
_host: Clock = {}
"""What the host has waited for: any of its threads, which tell each other."""
_local = threading.local()
_numbers = count()
_streams: "WeakSet[Stream]" = WeakSet()
_NEVER_AT_ONCE = 2
"""Times that an event says it has not been reached yet: a device is not as quick as that."""


class Event:
    """As ``torch.cuda.Event``."""

    def __init__(self, **_: object) -> None:
        self._clock: Clock = {}
        self._num_asked = 0

    def record(self, stream: "Stream | None" = None) -> None:
        with _lock:
            self._clock = dict((stream or current_stream()).clock)
            self._num_asked = 0

    def query(self) -> bool:
        self._num_asked += 1
        if self._num_asked <= _NEVER_AT_ONCE:
            return False
        self.synchronize()
        return True

    def synchronize(self) -> None:
        self.reach(_host)

    def reach(self, clock: Clock) -> None:
        with _lock:
            _merge(clock, self._clock)


class Stream:
    """As ``torch.cuda.Stream``."""

    def __init__(self, device: object = None, **_: object) -> None:
        self.device = torch.device("cuda:0")
        self.number = next(_numbers)
        self.clock: Clock = {}
        _streams.add(self)

    def wait_event(self, event: Event) -> None:
        event.reach(self.clock)

    def synchronize(self) -> None:
        with _lock:
            _merge(_host, self.clock)


DEFAULT = Stream()


def current_stream(device: object = None) -> Stream:
    """Of this thread."""
    stream: Stream = getattr(_local, "stream", DEFAULT)
    return stream


def set_stream(stream: Stream) -> None:
    _local.stream = stream


@contextmanager
def on_stream(stream: Stream | None) -> Iterator[None]:
    before = current_stream()
    set_stream(stream or before)
    try:
        yield
    finally:
        set_stream(before)


def synchronize(device: object = None) -> None:
    for stream in list(_streams):
        stream.synchronize()


@dataclass(frozen=True, slots=True)
class _Use:
    first: int
    last: int
    stream: int
    tick: int
    is_write: bool
    what: str

    def is_within(self, other: "_Use") -> bool:
        return other.first <= self.first and self.last <= other.last


_watched: dict[int, tuple[int, list[_Use]]] = {}
"""By its address, the size of a large allocation, and who used what of it."""


def watch(tensor: torch.Tensor) -> None:
    """From now on uses of this tensor's memory are compared; whatever lay there before is gone."""
    start, nbytes = tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()
    with _lock:
        for other, (size, _) in list(_watched.items()):
            if other < start + nbytes and start < other + size:
                del _watched[other]
        _watched[start] = (nbytes, [])


def used(what: str, reads: Sequence[torch.Tensor], writes: Sequence[torch.Tensor], *, waits: bool = False) -> None:
    """The current stream is given an operation; with ``waits`` the host then waits for it."""
    with _lock:
        stream = current_stream()
        _merge(stream.clock, _host)
        stream.clock[stream.number] = stream.clock.get(stream.number, 0) + 1
        for tensors, is_write in ((reads, False), (writes, True)):
            for tensor in tensors:
                _note(what, tensor, stream, is_write=is_write)
        if waits:
            stream.synchronize()


def _note(what: str, tensor: torch.Tensor, stream: Stream, *, is_write: bool) -> None:
    base = tensor.untyped_storage().data_ptr()
    if not tensor.numel() or base not in _watched:
        return
    extent = 1 + sum((n - 1) * abs(step) for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    first = tensor.data_ptr()
    last = first + extent * tensor.element_size()
    now = _Use(first, last, stream.number, stream.clock[stream.number], is_write, what)
    size, uses = _watched[base]
    kept = []
    for use in uses:
        is_seen = stream.clock.get(use.stream, 0) >= use.tick
        if use.first < last and first < use.last and not is_seen and (is_write or use.is_write):
            races.append(_describe(now, use, base))
        # What this use comes after, and whoever comes after this use, need not be asked for any more.
        if not (is_seen and use.is_within(now) and (is_write or not use.is_write)):
            kept.append(use)
    _watched[base] = size, [*kept, now]


def _describe(now: _Use, before: _Use, base: int) -> str:
    words = [
        f"{'write' if use.is_write else 'read'} of [{use.first - base}, {use.last - base}) by {use.what} "
        f"on stream {use.stream}"
        for use in (now, before)
    ]
    return f"{words[0]} is not ordered after {words[1]}\n" + "".join(traceback.format_stack(limit=16)[:-4])


def _merge(into: Clock, other: Clock) -> None:
    for stream, tick in list(other.items()):
        into[stream] = max(into.get(stream, 0), tick)


def as_cuda() -> dict[str, Any]:
    """What takes the place of what in ``torch.cuda``."""
    return {
        "Event": Event,
        "Stream": Stream,
        "current_stream": current_stream,
        "default_stream": lambda device=None: DEFAULT,
        "set_stream": set_stream,
        "stream": on_stream,
        "synchronize": synchronize,
    }
