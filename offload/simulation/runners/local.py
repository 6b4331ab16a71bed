"""Cells on the cores of this machine, each in a process of its own."""

import json
import multiprocessing
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any

from offload.commands import interrupts
from offload.simulation.cell import Cell, RunCell
from offload.simulation.kinds import CellMaker
from offload.simulation.runners.base import Answer, Refused, explained
from tiers.errors import UsageError, WorldError


class LocalRunner:
    """Cells of ``maker`` in the processes of ``pool``, each of which makes one like it."""

    def __init__(self, maker: CellMaker, pool: ProcessPoolExecutor, workers: int) -> None:
        self._kind, self._path = type(maker), maker.path
        self._pool = pool
        self.workers = workers

    def submit(self, cell: Cell) -> Future[Answer]:
        """See CellRunner."""
        with interrupts.deferred():  # which starts the processes
            try:
                inner = self._pool.submit(_run_cell, self._kind, self._path, json.dumps(cell.settings), cell.head)
            except BrokenProcessPool as error:
                raise _explain(error) from None
        return explained(inner, _explain)


@contextmanager
def local_runner(maker: CellMaker, most: int) -> Iterator[LocalRunner]:
    """At most so many processes, and no more than there are cores.

    They are gone when the block is left, at once where it is left by an exception.
    """
    context = multiprocessing.get_context("spawn")
    others = context.active_children()
    workers = min(most, len(os.sched_getaffinity(0)))
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin)
    try:
        yield LocalRunner(maker, pool, workers)
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


def _run_cell(kind: Callable[[Path], CellMaker], path: Path, settings: str, head: Mapping[str, Any]) -> Answer:
    try:
        return _experiment(kind, path, settings)(head)
    except UsageError as error:
        return Refused(str(error))


@lru_cache(maxsize=1)
def _experiment(kind: Callable[[Path], CellMaker], path: Path, settings: str) -> RunCell:
    """Cells of one setting come one after the other and share what can be shared."""
    one, maker = json.loads(settings), _maker(kind, path)
    return maker.setting(one).experiment(maker.workload(one))


@lru_cache(maxsize=1)
def _maker(kind: Callable[[Path], CellMaker], path: Path) -> CellMaker:
    """All cells share the reading of the trace."""
    return kind(path)
