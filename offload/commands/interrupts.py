"""Ctrl-C that cannot get lost.

Python raises KeyboardInterrupt wherever the main thread happens to be. In a callback of the garbage collector, or in a
library that catches everything, it goes no further, and the work would go on as if nobody had asked it to stop. So we
take note of it, and whoever comes by regularly looks.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_came = threading.Event()


def watch() -> None:
    """From now on take note; for the main thread of a command."""
    _came.clear()
    signal.signal(signal.SIGINT, _note)


def check() -> None:
    """Raise KeyboardInterrupt if there was one since ``watch``."""
    if _came.is_set():
        raise KeyboardInterrupt


@contextmanager
def deferred() -> Iterator[None]:
    """What happens inside is not torn apart: an interrupt waits for its end. Processes started inside never get one."""
    if threading.current_thread() is not threading.main_thread():
        yield  # where there are none
        return
    # Blocked for this thread and, by inheritance, for those processes. Threads of libraries may still get it for us.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    handler = signal.signal(signal.SIGINT, lambda *_: _came.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _note(_number: int, _frame: FrameType | None) -> None:
    _came.set()
    raise KeyboardInterrupt
