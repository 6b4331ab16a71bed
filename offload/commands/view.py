"""What a person sees while a run is going on. Loads nothing large; what redraws itself is in ``live``."""

import os
import sys
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, Self, TextIO

from offload.sizes import format_size

if TYPE_CHECKING:
    from offload.plan import Plan
    from offload.session import Status

_PLAIN_INTERVAL_S: Final = 5.0
"""Between two lines about a run where nothing can be redrawn."""


class RunView(AbstractContextManager["RunView"], Protocol):
    """Is told of a run as it goes, between entering and leaving it."""

    def on_load(self, done: int, total: int) -> None:
        """Bytes of weights brought so far, of those that stay in memory."""
        ...

    def on_plan(self, plan: "Plan") -> None:
        """What will sit where."""
        ...

    def on_status(self, status: "Status") -> None:
        """Once for the prompt and once for each token."""
        ...

    def on_text(self, text: str) -> None:
        """The next piece of the answer."""
        ...


class QuietView:
    """Shows nothing: for scripts."""

    def on_load(self, done: int, total: int) -> None:
        """Nothing."""

    def on_plan(self, plan: "Plan") -> None:
        """Nothing."""

    def on_status(self, status: "Status") -> None:
        """Nothing."""

    def on_text(self, text: str) -> None:
        """Nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Nothing."""


class PlainView(QuietView):
    """For files and pipes: the answer on stdout as it is, now and then a line about the run on stderr."""

    def __init__(self) -> None:
        self._next_line_s = time.monotonic() + _PLAIN_INTERVAL_S
        self._is_line_open = False

    def on_plan(self, plan: "Plan") -> None:
        """One line."""
        self._say(plan_line(plan))

    def on_status(self, status: "Status") -> None:
        """One line, unless there was one a moment ago."""
        if time.monotonic() >= self._next_line_s:
            self._say(status_line(status))
            self._next_line_s = time.monotonic() + _PLAIN_INTERVAL_S

    def on_text(self, text: str) -> None:
        """To stdout, at once."""
        sys.stdout.write(text)
        sys.stdout.flush()
        if text:
            self._is_line_open = not text.endswith("\n")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Ends the last line of the answer."""
        if self._is_line_open:
            self.on_text("\n")

    def _say(self, line: str) -> None:
        if self._is_line_open and _is_one_file(sys.stdout, sys.stderr):
            line = f"\n{line}"
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def _is_one_file(*streams: TextIO) -> bool:
    """Whether what is written to them ends up between each other, as with ``> log 2>&1``."""
    try:
        return len({(of.st_dev, of.st_ino) for of in (os.fstat(stream.fileno()) for stream in streams)}) == 1
    except OSError:  # a stream that is no file, as in a notebook
        return False


def make_view(as_json: bool) -> RunView:
    """The view that suits where stdout and stderr lead; with ``as_json`` stdout is left alone."""
    if as_json and not sys.stderr.isatty():
        return QuietView()
    if as_json or sys.stdout.isatty() or sys.stderr.isatty():
        from offload.commands.live import live_view

        return live_view(as_json) or (QuietView() if as_json else PlainView())
    return PlainView()


def plan_line(plan: "Plan") -> str:
    """One line about what will sit where, and how fast that should be."""
    return f"plan: {plan}"


def status_line(status: "Status") -> str:
    """One line about how far a run is and how full the tiers are."""
    tiers = ", ".join(f"{name} {format_size(used)}/{format_size(most)}" for name, (used, most) in status.tiers.items())
    rate = f", {status.tokens_per_s:.1f} tokens/s" if status.tokens_per_s else ""
    return f"{status.phase}: {status.new_tokens}/{status.max_new_tokens} tokens{rate}; {tiers}"
