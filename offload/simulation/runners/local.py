"""Cells on the cores of this machine, each in a process of its own."""

import json
import multiprocessing
import os
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any

from offload.commands import interrupts
from offload.simulation.cell import Cell
from offload.simulation.runners.base import Answer, Refused, explained
from offload.simulation.scenario_file import read_scenario
from simulators.scenario import Experiment
from tiers.errors import UsageError, WorldError


class LocalRunner:
    """Cells of the scenario file at ``path`` in the processes of ``pool``."""

    def __init__(self, path: Path, pool: ProcessPoolExecutor, workers: int) -> None:
        self._path = path
        self._pool = pool
        self.workers = workers

    def submit(self, cell: Cell) -> Future[Answer]:
        """See CellRunner."""
        with interrupts.deferred():  # which starts the processes
            try:
                inner = self._pool.submit(_run_cell, json.dumps(cell.settings), self._path, cell.head["policy"])
            except BrokenProcessPool as error:
                raise _explain(error) from None
        return explained(inner, _explain)


@contextmanager
def local_runner(path: Path, most: int) -> Iterator[LocalRunner]:
    """At most so many processes, and no more than there are cores.

    They are gone when the block is left, at once where it is left by an exception.
    """
    context = multiprocessing.get_context("spawn")
    others = context.active_children()
    workers = min(most, len(os.sched_getaffinity(0)))
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin)
    try:
        yield LocalRunner(path, pool, workers)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        _end(context, others)
        raise
    finally:
        pool.shutdown()


def _explain(error: BaseException) -> BaseException:
    if isinstance(error, BrokenProcessPool):
        return WorldError("a process was killed, perhaps for want of memory; run the same command again")
    return error


def _end(context: SpawnContext, others: list[Any]) -> None:
    for child in context.active_children():
        if child not in others:
            child.terminate()


def _begin() -> None:
    """In each process: it ends with its parent, however that ends, and leaves warnings to it."""
    warnings.simplefilter("ignore")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run_cell(settings: str, path: Path, policy: str) -> Answer:
    try:
        return _experiment(settings, path).run(policy)
    except UsageError as error:
        return Refused(str(error))


@lru_cache(maxsize=1)
def _experiment(settings: str, path: Path) -> Experiment:
    """Cells of one setting come one after the other and share the reading of the trace."""
    return Experiment(read_scenario(json.loads(settings), path))
