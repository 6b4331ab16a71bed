"""The view of a run on a terminal: the answer scrolls, below it stands what is in which tier."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from offload.commands.view import plan_line
from offload.render import format_seconds, occupancy_table

if TYPE_CHECKING:
    from offload.plan import Plan
    from offload.session import Status


class LiveView:
    """Redraws a few lines in place.

    Where the answer goes to the same terminal it is printed above them, its unfinished line is the first of them.
    """

    def __init__(self, console: Console, *, is_answer_here: bool) -> None:
        self._console = console
        self._is_answer_here = is_answer_here
        self._line = ""
        self._doing = "opening the model"
        self._since_s = time.monotonic()
        self._predicted_prefill_s = 0.0
        self._status: Status | None = None
        # Without redirecting: what this process writes elsewhere, the answer first of all, stays there.
        self._live = Live(
            console=console,
            get_renderable=self._draw,
            refresh_per_second=8,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def on_load(self, done: int, total: int) -> None:
        """Shows the share."""
        self._doing = f"loading the weights that stay: {done / total:.0%}"

    def on_plan(self, plan: "Plan") -> None:
        """Prints it once."""
        self._predicted_prefill_s = plan.predicted_prefill_s
        self._console.print(Text(plan_line(plan), style="dim"))

    def on_status(self, status: "Status") -> None:
        """Shows it until the next."""
        if self._status is None or self._status.phase != status.phase:
            self._since_s = time.monotonic()
        self._status = status

    def on_text(self, text: str) -> None:
        """Prints whole lines and keeps the rest."""
        if not self._is_answer_here:
            sys.stdout.write(text)
            sys.stdout.flush()
            return
        *lines, self._line = (self._line + printable(text)).split("\n")
        for line in lines:
            self._console.print(Text(line))
        self._flush_full_rows()

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        line, self._line = self._line, ""
        self._live.stop()
        if line:
            self._console.print(Text(line))

    def _flush_full_rows(self) -> None:
        """A line longer than the terminal is wide must not fill the part that is redrawn."""
        if Text(self._line).cell_len <= self._console.width:
            return
        tail = self._line[len(self._line.rstrip()) :]
        *rows, last = Text(self._line).wrap(self._console, self._console.width)
        for row in rows:
            self._console.print(row)
        self._line = last.plain.rstrip() + tail

    def _draw(self) -> RenderableType:
        parts: list[RenderableType] = [Text(self._line)] if self._line else []
        if self._status is None:
            return Group(*parts, Text(self._doing, style="dim"))
        parts.append(Text(self._progress(self._status), style="bold"))
        return Group(*parts, occupancy_table(self._status.tiers))

    def _progress(self, status: "Status") -> str:
        if not status.new_tokens:
            passed = format_seconds(time.monotonic() - self._since_s)
            return f"{status.phase}: {passed}, predicted {format_seconds(self._predicted_prefill_s)}"
        progress = f"{status.phase}: {status.new_tokens}/{status.max_new_tokens} tokens"
        if not status.tokens_per_s:
            return progress
        left_s = (status.max_new_tokens - status.new_tokens) / status.tokens_per_s
        return f"{progress}, {status.tokens_per_s:.1f} tokens/s, {format_seconds(left_s)} left"


def live_view(as_json: bool) -> LiveView | None:
    """A view on stdout if that is a terminal, else on stderr; None if nothing can be redrawn on either."""
    for console, is_stdout in ((Console(), True), (Console(stderr=True), False)):
        if console.is_terminal and not console.is_dumb_terminal and not (is_stdout and as_json):
            return LiveView(console, is_answer_here=is_stdout)
    return None


def printable(text: str) -> str:
    """``text`` without the characters that would command the terminal: a model may write anything."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text.replace("\r\n", "\n"))
