"""Ctrl-C, and a polite request to end, that cannot get lost.

Python raises KeyboardInterrupt wherever the main thread happens to be. In a callback of the garbage collector, or in a
library that catches everything, it goes no further, and the work would go on as if nobody had asked it to stop. So we
take note of it, and whoever comes by regularly looks. SIGTERM is treated alike: it too must leave nothing behind.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_came = {number: threading.Event() for number in _SIGNALS}


def watch() -> None:
    """From now on take note; for the main thread of a command."""
    for number, event in _came.items():
        event.clear()
        signal.signal(number, _note)


def check() -> None:
    """Raise KeyboardInterrupt if there was a signal since ``watch``."""
    if any(event.is_set() for event in _came.values()):
        raise KeyboardInterrupt


def status() -> tuple[int, str]:
    """The exit status of a command that was stopped, as shells count them, and the word for it."""
    if _came[signal.SIGTERM].is_set():
        return 128 + signal.SIGTERM, "terminated"
    return 128 + signal.SIGINT, "interrupted"


@contextmanager
def deferred() -> Iterator[None]:
    """What happens inside is not torn apart: a signal waits for its end. Processes started inside get no Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield  # where there are none
        return
    # Blocked for this thread and, by inheritance, for those processes. Threads of libraries may still get it for us.
    # SIGTERM is not: it is how those processes are ended.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    handlers = {number: signal.signal(number, lambda got, _: _came[signal.Signals(got)].set()) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _note(number: int, _frame: FrameType | None) -> None:
    _came[signal.Signals(number)].set()
    raise KeyboardInterrupt
