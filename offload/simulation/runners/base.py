"""What runs cells: it is given them one by one, and each becomes a future. Which ends first does not matter."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from offload.simulation.cell import Cell
from tiers.errors import InvalidOptionError


@dataclass(frozen=True, slots=True)
class Refused:
    """A usage error on its way here: not every error can be sent from process to process."""

    message: str


Answer = Mapping[str, Any] | Refused
"""The figures of a cell, or why it cannot run as asked."""


class CellRunner(Protocol):
    """A place where cells run, until it is closed by whoever made it."""

    @property
    def workers(self) -> int:
        """How many cells run side by side."""
        ...

    def submit(self, cell: Cell) -> Future[Answer]:
        """Has a cell run. What was lost on the way, such as a killed process, is a WorldError in the future."""
        ...


def row_of(future: Future[Answer], cell: Cell, path: Path) -> dict[str, Any]:
    """The row of a cell that has run; InvalidOptionError, which names it, where it was refused, or WorldError."""
    answer = future.result()
    if isinstance(answer, Refused):
        raise InvalidOptionError(f"{path}: {cell}: {answer.message}")
    return cell.row(answer)


def explained(inner: Future[Answer], explain: Callable[[BaseException], BaseException]) -> Future[Answer]:
    """A future like ``inner`` whose exception is what ``explain`` makes of it."""
    outer: Future[Answer] = Future()

    def pass_on(done: Future[Answer]) -> None:
        if done.cancelled():
            outer.cancel()
            return
        error = done.exception()
        with suppress(InvalidStateError):  # somebody gave it up meanwhile
            if error is None:
                outer.set_result(done.result())
            else:
                outer.set_exception(explain(error))

    inner.add_done_callback(pass_on)
    return outer
