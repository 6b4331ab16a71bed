"""Runs the cells of a sweep, wherever they run."""

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, wait

from offload.simulation.runners.base import row_of
from offload.simulation.runners.choice import open_runner
from offload.simulation.sweep import Sweep
from offload.simulation.sweep_file import Rows

_LOOK_EVERY_S = 0.2
"""How long an interrupt may go unnoticed."""


def run_cells(
    sweep: Sweep,
    rows: Rows,
    *,
    ray: str | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
    on_row: Callable[[], None] = lambda: None,
) -> None:
    """Adds the rows that ``rows`` lacks, and calls ``on_row`` after each; ``ray`` as ``open_runner`` has it.

    Raises InvalidOptionError, which names the cell, where one cannot run as asked, WorldError where a process was
    killed, and what ``open_runner`` does. The rows that there are by then stay.
    """
    missing = {number: cell for number, cell in enumerate(sweep.cells) if number not in rows}
    if not missing:
        return
    progress(len(rows), len(sweep.cells))
    others = dict.fromkeys(name for cell in sweep.cells for name in cell.others)
    with open_runner(sweep.maker, list(others), most=len(missing), ray=ray) as runner:
        pending = {runner.submit(cell): number for number, cell in missing.items()}
        while pending:
            progress(len(rows), len(sweep.cells))
            for future in wait(pending, _LOOK_EVERY_S, FIRST_COMPLETED).done:
                number = pending.pop(future)
                rows[number] = row_of(future, missing[number], sweep.path)
                on_row()
        progress(len(rows), len(sweep.cells))
