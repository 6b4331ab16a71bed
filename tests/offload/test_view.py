"""What a person sees during a run, drawn on a terminal that remembers."""

from io import StringIO

import pytest
from rich.console import Console

from offload.commands.live import LiveView, printable
from offload.commands.view import status_line
from offload.render import format_seconds
from offload.session import Status

STATUS = Status("decode", 3, 10, 2.0, 1.5, {"device": (2**20, 2**21), "host": (0, 2**20)})


def screen(width: int = 30) -> tuple[Console, StringIO]:
    file = StringIO()
    return Console(file=file, width=width, height=20, force_terminal=True, color_system=None), file


def kept_rows(file: StringIO) -> list[str]:
    """The rows that were printed for good: those that no later erase command takes back."""
    rows: list[str] = []
    for part in file.getvalue().split("\n"):
        for _ in range(part.count("\x1b[1A")):
            rows.pop()
        rows.append(part.rpartition("\x1b[2K")[2].replace("\x1b[?25l", "").replace("\x1b[?25h", "").strip())
    return [row for row in rows if row]


def test_the_answer_stays_and_the_status_goes() -> None:
    console, file = screen()
    with LiveView(console, is_answer_here=True) as view:
        view.on_load(1, 2)
        view.on_status(STATUS)
        for piece in ("Once", " upon a", " time.\nThere", " was", " a drive."):
            view.on_text(piece)
    assert kept_rows(file) == ["Once upon a time.", "There was a drive."]


def test_a_long_line_is_wrapped_and_complete() -> None:
    console, file = screen()
    words = [f"word{i}" for i in range(40)]
    with LiveView(console, is_answer_here=True) as view:
        view.on_status(STATUS)
        for word in words:
            view.on_text(word + " ")
    rows = kept_rows(file)
    assert all(len(row) <= console.width for row in rows)
    assert " ".join(rows).split() == words


def test_an_answer_that_goes_elsewhere_is_not_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    console, file = screen()
    with LiveView(console, is_answer_here=False) as view:
        view.on_text("Once upon")
        view.on_status(STATUS)
    assert capsys.readouterr().out == "Once upon"
    assert "Once" not in file.getvalue()


def test_an_answer_cannot_command_the_terminal() -> None:
    assert printable("a\x1b[2Jb\rc\x07\td\r\ne") == "a\ufffd[2Jb\ufffdc\ufffd\td\ne"


def test_a_status_in_one_line() -> None:
    line = "decode: 3/10 tokens, 1.5 tokens/s; device 1MiB/2MiB, host 0B/1MiB"
    assert status_line(STATUS) == line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 us"), (2.5e-5, "25 us"), (0.0123, "12.3 ms"), (1.5, "1.5 s"), (59.9, "59.9 s"), (119.7, "2 min 0 s")],
)
def test_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
