"""Runs the cells of a sweep on all cores, each in a process of its own."""

import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any

from offload.commands import interrupts
from offload.simulation.scenario_file import read_scenario
from offload.simulation.sweep import Sweep
from offload.simulation.sweep_file import Rows
from simulators.scenario import Experiment
from tiers.errors import InvalidOptionError, UsageError, WorldError

_LOOK_EVERY_S = 0.2
"""How long an interrupt may go unnoticed."""


@dataclass(frozen=True, slots=True)
class _Refused:
    """A usage error on its way here: not every error can be pickled."""

    message: str


def run_cells(
    sweep: Sweep,
    rows: Rows,
    *,
    progress: Callable[[int, int], None] = lambda *_: None,
    on_row: Callable[[], None] = lambda: None,
) -> None:
    """Adds the rows that ``rows`` lacks, and calls ``on_row`` after each.

    Raises InvalidOptionError, which names the cell, where one cannot run as asked, and WorldError where a process was
    killed. The rows that there are by then stay.
    """
    missing = [number for number in range(len(sweep.cells)) if number not in rows]
    if not missing:
        return
    with _pool(min(len(missing), len(os.sched_getaffinity(0)))) as pool:
        cells = {number: sweep.cells[number] for number in missing}
        with interrupts.deferred():  # which starts the processes
            pending = {
                pool.submit(_run_cell, json.dumps(cell.settings), sweep.path, cell.head["policy"]): number
                for number, cell in cells.items()
            }
        while pending:
            progress(len(rows), len(sweep.cells))
            for future in wait(pending, _LOOK_EVERY_S, FIRST_COMPLETED).done:
                number = pending.pop(future)
                cell = cells[number]
                try:
                    row = future.result()
                except BrokenProcessPool:
                    message = "a process of the sweep was killed, perhaps for want of memory; run the sweep again"
                    raise WorldError(message) from None
                if isinstance(row, _Refused):
                    raise InvalidOptionError(f"{sweep.path}: {cell}: {row.message}")
                rows[number] = {**cell.head, **row, "fingerprint": cell.fingerprint}
                on_row()
        progress(len(rows), len(sweep.cells))


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that are gone when the block is left, at once where it is left by an exception."""
    context = multiprocessing.get_context("spawn")
    others = context.active_children()
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        _end(context, others)
        raise
    finally:
        pool.shutdown()


def _end(context: SpawnContext, others: list[Any]) -> None:
    for child in context.active_children():
        if child not in others:
            child.terminate()


def _begin() -> None:
    """In each process: it ends with its parent, however that ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_cell(settings: str, path: Path, policy: str) -> Mapping[str, Any] | _Refused:
    try:
        return _experiment(settings, path).run(policy)
    except UsageError as error:
        return _Refused(str(error))


@lru_cache(maxsize=1)
def _experiment(settings: str, path: Path) -> Experiment:
    """Cells of one setting come one after the other and share the reading of the trace."""
    return Experiment(read_scenario(json.loads(settings), path))
