"""Where the answer of a command goes: one JSON object for scripts, tables for people, progress on stderr."""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from offload.commands import interrupts

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress

ProgressCallback = Callable[[int, int], None]
"""Called with what is done and what there is in all, in the same unit."""

Data = Mapping[str, Any]
MakeTables = Callable[[Data], Sequence["RenderableType"]]

_QUIET_S: Final = 2.0
"""Work that takes no longer shows no progress bar."""


class JsonAnswer:
    """One line of JSON. Infinities and not-a-numbers, which JSON does not have, become null."""

    def __init__(self, stdout: TextIO) -> None:
        self._stdout = stdout

    def show(self, data: Data, tables: MakeTables) -> None:
        """Writes ``data``."""
        self._stdout.write(json_text(data))


class TablesAnswer:
    """Tables for people."""

    def show(self, data: Data, tables: MakeTables) -> None:
        """Prints what ``tables`` makes of ``data``."""
        from rich.console import Console

        console = Console()
        for table in tables(data):
            console.print(table)


Answer = JsonAnswer | TablesAnswer


@contextmanager
def answering(as_json: bool) -> Iterator[Answer]:
    """Gives out the Answer of one command. With ``as_json`` nothing but that answer reaches stdout, whoever prints."""
    if not as_json:
        yield TablesAnswer()
        return
    sys.stdout.flush()
    # The descriptor itself is turned to stderr, since a library written in C does not ask sys.stdout.
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(kept), "w", encoding="utf-8") as stdout:
            yield JsonAnswer(stdout)
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def json_text(data: Data) -> str:
    """One line, as ``--json`` prints it."""
    return json.dumps(_plain(data), allow_nan=False) + "\n"


def say(message: str) -> None:
    """One line for people, on stderr."""
    sys.stderr.write(f"offload: {message}\n")
    sys.stderr.flush()


@contextmanager
def progress_bar(what: str, *, in_bytes: bool = False) -> Iterator[ProgressCallback]:
    """A callback that draws a bar with the time left on stderr, if that is a terminal and the work takes a while."""
    started = time.monotonic()
    bar: Progress | None = None

    def update(done: int, total: int) -> None:
        nonlocal bar
        interrupts.check()
        if bar is None and sys.stderr.isatty() and time.monotonic() - started > _QUIET_S:
            bar = _make_bar(what, in_bytes=in_bytes)
            bar.start()
        if bar is not None:
            bar.update(bar.task_ids[0], completed=done, total=total)

    try:
        yield update
    finally:
        if bar is not None:
            bar.stop()


def _make_bar(what: str, *, in_bytes: bool) -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    amount = DownloadColumn(binary_units=True) if in_bytes else TaskProgressColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False)
    bar.add_task(what, total=None)
    return bar


def _plain(value: object) -> object:
    match value:
        case float() if not math.isfinite(value):
            return None
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case Path():
            return str(value)
        case _:
            return value
