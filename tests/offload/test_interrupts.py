import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from offload.commands import interrupts

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def interrupt(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)
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


@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGINT, (130, "interrupted")), (signal.SIGTERM, (143, "terminated"))]
)
def test_a_request_to_end_is_an_interrupt_with_a_status_of_its_own(number: int, expected: tuple[int, str]) -> None:
    interrupts.watch()
    with pytest.raises(KeyboardInterrupt):
        interrupt(number)
    assert interrupts.status() == expected


@pytest.mark.parametrize("number", SIGNALS)
def test_what_must_not_be_torn_apart_is_not(number: int) -> None:
    interrupts.watch()
    reached = False
    with contextlib.suppress(KeyboardInterrupt), interrupts.deferred():
        interrupt(number)
        reached = True
    assert reached
    with pytest.raises(KeyboardInterrupt):
        interrupts.check()
