import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from offload.commands import interrupts


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(10_000):
        """The handler runs between two instructions."""


def test_an_interrupt_that_somebody_swallowed() -> None:
    interrupts.watch()
    interrupts.check()
    with contextlib.suppress(KeyboardInterrupt):
        interrupt()
    with pytest.raises(KeyboardInterrupt):
        interrupts.check()
    interrupts.watch()
    interrupts.check()


def test_an_interrupt_is_still_raised_where_it_comes() -> None:
    interrupts.watch()
    with pytest.raises(KeyboardInterrupt):
        interrupt()
