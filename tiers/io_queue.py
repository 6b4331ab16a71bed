"""Many reads and writes at a time: submit, then reap, in the manner of an NVMe queue pair.

Two queues behind one seam. ``LinuxAIOQueue`` drives the kernel's native asynchronous I/O (io_submit, io_getevents)
through ctypes: one thread keeps the drive busy at half the CPU cost of a pool of threads in ``preadv``, which matters
because the same cores run the model. It is asynchronous for O_DIRECT files only. ``ThreadQueue`` works everywhere else.
"""

import ctypes
import errno
import os
import platform
import queue
import struct
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

_SYSCALLS = {
    "x86_64": {"setup": 206, "destroy": 207, "getevents": 208, "submit": 209},
    "aarch64": {"setup": 0, "destroy": 1, "submit": 2, "getevents": 4},
}
_PREAD, _PREADV = 0, 7  # the write of each is one more

# struct iocb (data, key, rw_flags, opcode, priority, fd, buf, nbytes, offset, reserved, flags, resfd), struct io_event
# (data, obj, res, res2) and struct iovec (base, len) of the kernel's ABI. struct.pack_into costs a fraction of what
# ctypes fields cost.
_IOCB = struct.Struct("<QIiHhIQQqQII")
_EVENT = struct.Struct("<QQqq")
_IOVEC = struct.Struct("<QQ")


@dataclass(frozen=True, slots=True)
class IORequest:
    """One contiguous range of a file and the buffers that it fills or drains, in order. ``tag`` is the caller's."""

    tag: int
    fd: int
    offset: int
    buffers: tuple[memoryview, ...]
    is_write: bool

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self.buffers)


@dataclass(frozen=True, slots=True)
class Completion:
    """How a request ended: ``nbytes`` moved, which may be fewer than asked, or the error that stopped it."""

    tag: int
    nbytes: int
    error: OSError | None = None


class IOQueue(ABC):
    """At most ``depth`` requests in flight. One thread submits and reaps; buffers stay untouched until reaped."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.in_flight = 0

    @abstractmethod
    def submit(self, requests: Sequence[IORequest]) -> None:
        """Start requests, at most ``depth - in_flight`` of them. Failures are reported by ``reap``, never raised."""

    @abstractmethod
    def reap(self, minimum: int = 1, timeout_s: float | None = None) -> list[Completion]:
        """Wait for ``minimum`` completions (never for more than are in flight) and return all that are there."""

    @abstractmethod
    def close(self) -> None:
        """Wait for what is in flight, then give the queue back."""


def open_queue(depth: int, *, direct: bool = True) -> IOQueue:
    """The best queue for this machine; ``direct`` says that the files were opened with O_DIRECT."""
    if direct and LinuxAIOQueue.is_supported():
        try:
            return LinuxAIOQueue(depth)
        except OSError:
            # All processes of the machine share one limit of requests (fs.aio-max-nr), and it is used up.
            return ThreadQueue(depth)
    return ThreadQueue(depth)


class LinuxAIOQueue(IOQueue):
    """The kernel's native asynchronous I/O. Raises OSError where the kernel refuses a context."""

    def __init__(self, depth: int) -> None:
        super().__init__(depth)
        self._numbers = _SYSCALLS[platform.machine()]
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        self._syscall.restype = ctypes.c_long
        self._context = ctypes.c_ulong(0)
        if self._syscall(self._numbers["setup"], ctypes.c_long(depth), ctypes.byref(self._context)) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"io_setup: {os.strerror(code)}")
        self._iocbs = ctypes.create_string_buffer(depth * _IOCB.size)
        self._events = ctypes.create_string_buffer(depth * _EVENT.size)
        self._pointers = (ctypes.c_void_p * depth)()
        self._free = list(range(depth))
        # Index of the iocb -> the request and its iovec: both have to outlive the transfer.
        self._pending: dict[int, tuple[IORequest, object]] = {}
        self._failed: list[Completion] = []

    @classmethod
    def is_supported(cls) -> bool:
        """Whether this kernel offers native asynchronous I/O (containers and emulated kernels may not)."""
        return _has_native_aio()

    def submit(self, requests: Sequence[IORequest]) -> None:
        assert len(requests) <= len(self._free), "more requests than the queue is deep"
        indices = []
        for request in requests:
            index = self._free.pop()
            self.in_flight += 1
            try:
                self._pending[index] = (request, self._prepare(request, index))
                indices.append(index)
            except (struct.error, TypeError, ValueError, BufferError) as error:
                self._free.append(index)
                self._failed.append(Completion(request.tag, 0, OSError(errno.EINVAL, str(error))))
        base = ctypes.addressof(self._iocbs)
        while indices:
            for position, index in enumerate(indices):
                self._pointers[position] = base + index * _IOCB.size
            started = self._syscall(self._numbers["submit"], self._context, ctypes.c_long(len(indices)), self._pointers)
            if started <= 0:
                # The kernel stops at the first request that it refuses, so that one is the culprit.
                self._refuse(indices.pop(0), ctypes.get_errno() or errno.EIO)
            else:
                indices = indices[started:]

    def reap(self, minimum: int = 1, timeout_s: float | None = None) -> list[Completion]:
        done, self._failed = self._failed, []
        minimum = min(minimum - len(done), len(self._pending))
        timeout = None
        if timeout_s is not None:
            whole = int(timeout_s)
            timeout = (ctypes.c_long * 2)(whole, int((timeout_s - whole) * 1e9))
        count = 0
        if self._pending:
            count = self._get_events(max(0, minimum), timeout)
        for index, _, result, _ in _EVENT.iter_unpack(memoryview(self._events)[: count * _EVENT.size]):
            request, _ = self._pending.pop(index)
            self._free.append(index)
            error = OSError(-result, os.strerror(-result)) if result < 0 else None
            done.append(Completion(request.tag, max(0, result), error))
        self.in_flight -= len(done)
        return done

    def close(self) -> None:
        if self._context.value == 0:
            return
        while self.in_flight:
            self.reap()
        self._syscall(self._numbers["destroy"], self._context)
        self._context = ctypes.c_ulong(0)

    def _prepare(self, request: IORequest, index: int) -> object:
        """Fill in an iocb; returns the iovec that it points to, if any."""
        # Neighbours in memory become one range: the kernel pays for each.
        ranges: list[tuple[int, int]] = []
        for buffer in request.buffers:
            address, nbytes = _address(buffer, request), buffer.nbytes
            if ranges and ranges[-1][0] + ranges[-1][1] == address:
                address, before = ranges.pop()
                nbytes += before
            ranges.append((address, nbytes))
        vectors = None
        if len(ranges) == 1:
            opcode, (buf, nbytes) = _PREAD, ranges[0]
        else:
            vectors = ctypes.create_string_buffer(len(ranges) * _IOVEC.size)
            for i, (address, nbytes) in enumerate(ranges):
                _IOVEC.pack_into(vectors, i * _IOVEC.size, address, nbytes)
            opcode, buf, nbytes = _PREADV, ctypes.addressof(vectors), len(ranges)
        opcode += request.is_write
        _IOCB.pack_into(
            self._iocbs, index * _IOCB.size, index, 0, 0, opcode, 0, request.fd, buf, nbytes, request.offset, 0, 0, 0
        )
        return vectors

    def _refuse(self, index: int, code: int) -> None:
        request, _ = self._pending.pop(index)
        self._free.append(index)
        self._failed.append(Completion(request.tag, 0, OSError(code, os.strerror(code))))

    def _get_events(self, minimum: int, timeout: "ctypes.Array[ctypes.c_long] | None") -> int:
        while True:
            count = self._syscall(
                self._numbers["getevents"],
                self._context,
                ctypes.c_long(minimum),
                ctypes.c_long(self.depth),
                self._events,
                timeout,
            )
            if count >= 0:
                return int(count)
            code = ctypes.get_errno()
            if code != errno.EINTR:
                raise OSError(code, f"io_getevents: {os.strerror(code)}")


@cache
def _has_native_aio() -> bool:
    # Asked once: taking a context down again costs tens of milliseconds.
    if sys.platform != "linux" or sys.byteorder != "little" or platform.machine() not in _SYSCALLS:
        return False
    try:
        LinuxAIOQueue(1).close()
    except OSError:
        return False
    return True


class ThreadQueue(IOQueue):
    """Threads in ``preadv`` and ``pwritev``: for buffered files and for systems without native asynchronous I/O."""

    def __init__(self, depth: int) -> None:
        super().__init__(depth)
        self._todo: queue.SimpleQueue[IORequest | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Completion] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=f"io-{i}", daemon=True) for i in range(depth)]
        for thread in self._threads:
            thread.start()

    def submit(self, requests: Sequence[IORequest]) -> None:
        assert len(requests) <= self.depth - self.in_flight, "more requests than the queue is deep"
        for request in requests:
            self._todo.put(request)
        self.in_flight += len(requests)

    def reap(self, minimum: int = 1, timeout_s: float | None = None) -> list[Completion]:
        done: list[Completion] = []
        minimum = min(minimum, self.in_flight)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while len(done) < self.in_flight:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                done.append(self._done.get(block=len(done) < minimum, timeout=left))
            except queue.Empty:
                break
        self.in_flight -= len(done)
        return done

    def close(self) -> None:
        while self.in_flight:
            self.reap()
        for _ in self._threads:
            self._todo.put(None)
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _work(self) -> None:
        while (request := self._todo.get()) is not None:
            move = os.pwritev if request.is_write else os.preadv
            try:
                completion = Completion(request.tag, move(request.fd, list(request.buffers), request.offset))
            except OSError as error:
                completion = Completion(request.tag, 0, error)
            except Exception as error:  # noqa: BLE001 - a thread that dies would leave its request without an answer
                completion = Completion(request.tag, 0, OSError(errno.EINVAL, str(error)))
            self._done.put(completion)


def _address(buffer: memoryview, request: IORequest) -> int:
    if buffer.readonly and request.is_write:
        return int(np.frombuffer(buffer, np.uint8).ctypes.data)
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
