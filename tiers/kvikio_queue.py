"""Reads from files straight into the memory of a device, by kvikio."""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from tiers.io_queue import Completion, IOQueue, IORequest
from tiers.kvikio_settings import KvikioSettings

_POLL_S = 50e-6


class KvikioQueue(IOQueue):
    """An IOQueue of reads whose buffers are tensors of a CUDA device."""

    def __init__(self, depth: int, settings: KvikioSettings) -> None:
        import kvikio
        import kvikio.defaults

        super().__init__(depth)
        kvikio.defaults.set({"num_threads": settings.num_threads, "task_size": settings.task_nbytes})
        with suppress(KeyError):  # which releases before 25.12 do not know
            kvikio.defaults.set({"auto_direct_io_read": settings.is_direct})
        self._task_nbytes = settings.task_nbytes
        self._files: dict[tuple[int, int, int], Any] = {}
        self._pending: dict[int, tuple[IORequest, list[Any]]] = {}
        self._failed: list[Completion] = []

    def submit(self, requests: Sequence[IORequest]) -> None:
        for request in requests:
            self.in_flight += 1
            try:
                self._pending[request.tag] = (request, self._start(request))
            except (RuntimeError, OSError, ValueError) as error:
                self._failed.append(Completion(request.tag, 0, _as_os_error(error)))

    def reap(self, minimum: int = 1, timeout_s: float | None = None) -> list[Completion]:
        done, self._failed = self._failed, []
        minimum = min(minimum, self.in_flight)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            # kvikio tells when a read has ended, but has nothing to wait for the first of several.
            ended = [tag for tag, (_, futures) in self._pending.items() if all(future.done() for future in futures)]
            done += [_finish(*self._pending.pop(tag)) for tag in ended]
            if len(done) >= minimum or (deadline is not None and time.monotonic() >= deadline):
                self.in_flight -= len(done)
                return done
            time.sleep(_POLL_S)

    def close(self) -> None:
        while self.in_flight:
            self.reap()
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _start(self, request: IORequest) -> list[Any]:
        assert not request.is_write, "writes go through host memory, where their checksums are taken"
        file = self._open(request.fd)
        futures: list[Any] = []
        offset = request.offset
        try:
            for buffer in request.buffers:
                futures.append(file.pread(buffer, buffer.nbytes, offset, self._task_nbytes))
                offset += buffer.nbytes
        except BaseException:
            _finish(request, futures)  # those before it still write into slots that are about to be free
            raise
        return futures

    def _open(self, fd: int) -> Any:
        import kvikio

        status = os.fstat(fd)  # a number may come to mean another file
        key = fd, status.st_dev, status.st_ino
        if key not in self._files:
            # Files of tiers may have no name, but they are open: this is the way to open them once more.
            self._files[key] = kvikio.CuFile(f"/proc/self/fd/{fd}", "r")
        return self._files[key]


def _finish(request: IORequest, futures: Sequence[Any]) -> Completion:
    nbytes, error = 0, None
    for future in futures:  # all of them, or a buffer would be let go of too early
        try:
            nbytes += future.get()
        except (RuntimeError, OSError, ValueError) as failure:
            error = error or _as_os_error(failure)
    return Completion(request.tag, nbytes, error)


def _as_os_error(error: Exception) -> OSError:
    return error if isinstance(error, OSError) else OSError(5, str(error))
