"""Pages of new memory that are there before anybody needs them."""

import ctypes
import threading

import numpy as np

_POPULATE_WRITE = 23
"""MADV_POPULATE_WRITE of Linux 5.14: leaves the bytes as they are. Older kernels know nothing of it and refuse."""
_STEP_NBYTES = 16 * 2**20


class Population:
    """A thread that has the kernel find pages for all of ``buffer``, a mapping of whole pages, from its start on.

    A drive that is to write to memory that nobody has touched yet waits for every page of it, which can take longer
    than its transfer. Where the kernel cannot do this nothing happens.
    """

    def __init__(self, buffer: memoryview) -> None:
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(buffer,), name="population", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it, done or not: from here on the buffer is left alone. Stopping twice does nothing."""
        self._is_stopped.set()
        self._thread.join()

    def wait(self) -> None:
        """Until it is done."""
        self._thread.join()

    def _run(self, buffer: memoryview) -> None:
        madvise = getattr(ctypes.CDLL(None), "madvise", None)
        if madvise is None or not buffer.nbytes:
            return
        address = int(np.frombuffer(buffer, np.uint8).ctypes.data)
        for start in range(0, buffer.nbytes, _STEP_NBYTES):
            nbytes = min(_STEP_NBYTES, buffer.nbytes - start)
            arguments = ctypes.c_void_p(address + start), ctypes.c_size_t(nbytes), ctypes.c_int(_POPULATE_WRITE)
            if self._is_stopped.is_set() or madvise(*arguments) != 0:
                return
