"""Ctrl-C that cannot get lost.

Python raises KeyboardInterrupt wherever the main thread happens to be. In a callback of the garbage collector, or in a
library that catches everything, it goes no further, and the work would go on as if nobody had asked it to stop. So we
take note of it, and whoever comes by regularly looks.
"""

import signal
import threading
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


def _note(_number: int, _frame: FrameType | None) -> None:
    _came.set()
    raise KeyboardInterrupt
