"""Cells on a Ray cluster. What a worker needs comes with them: it has to have Ray, numpy and the same Python."""

import json
import logging
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from offload.simulation.cell import Cell, RunCell
from offload.simulation.kinds import CellMaker, Setting
from offload.simulation.runners.base import Answer, Refused, explained
from offload.simulation.runners.ray_address import LOCAL, Found, find_ray
from offload.simulation.runners.ray_nodes import node_of, nodes_here
from offload.simulation.runners.ray_watch import Watch, watching
from offload.simulation.runners.shipment import shipment
from tiers.errors import InvalidOptionError, UsageError, WorldError

_TRIES = 4
_LONGEST_FOLDER = 30


class RayRunner:
    """Cells of ``maker``, whose files only this process can read: the rest gets what they say."""

    def __init__(self, ray: Any, maker: CellMaker, workers: int, watch: Watch) -> None:
        self._run = ray.remote(num_cpus=1, max_retries=_TRIES - 1)(run_cell)
        self._put = ray.put
        self._maker = maker
        self._stored: dict[int, tuple[Any, Any]] = {}
        """Workloads by their id, and where they are in Ray's store."""
        self._watch = watch
        self.workers = workers

    def submit(self, cell: Cell) -> Future[Answer]:
        """See CellRunner. A lost worker's cell is run again by another one, three times at most."""
        workload = self._maker.workload(cell.settings)
        if id(workload) not in self._stored:
            self._stored[id(workload)] = workload, self._put(workload)
        stored = self._stored[id(workload)][1]
        inner: Future[Answer] = self._run.remote(sent_setting(cell, self._maker), stored, dict(cell.head)).future()
        return self._watch.add(explained(inner, lambda error: explain(error, cell)))


@contextmanager
def ray_runner(maker: CellMaker, others: Collection[str], *, address: str, most: int) -> Iterator[RayRunner]:
    """See ``open_runner``. Cells that still run when the block is left are given up."""
    found = find_ray(address)
    ray = _import_ray(found)
    with ExitStack() as stack:
        given: dict[str, Any] = {}
        if found.address == LOCAL:
            given |= {"num_cpus": min(most, len(os.sched_getaffinity(0))), "include_dashboard": False}
            folder = stack.enter_context(TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True))
            # Ray's sockets will be in it, whose names the system allows about a hundred letters.
            given |= {"_temp_dir": folder} if len(folder) < _LONGEST_FOLDER else {}
        stack.callback(ray.shutdown)
        with shipment(others) as code, _silent():
            _connect(ray, address, found.address, code, given)
        workers = int(ray.cluster_resources().get("CPU", 1))
        node = found.node or node_of(ray.get_runtime_context().gcs_address, nodes_here())
        if node is None:
            raise WorldError(f"--ray {address}: the cluster is gone; run the same command again")
        watch = stack.enter_context(watching(node))
        stack.enter_context(redirect_stdout(stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))))
        yield RayRunner(ray, maker, max(1, min(most, workers)), watch)


@dataclass(frozen=True, slots=True)
class SentSetting:
    """One setting, without its workload, which is sent once for all of them."""

    name: str
    """The settings in JSON, which tell it from others."""
    setting: Setting = field(compare=False)
    workload: Any = field(compare=False, default=None)


def sent_setting(cell: Cell, maker: CellMaker) -> SentSetting:
    """That of a cell of ``maker``."""
    return SentSetting(json.dumps(cell.settings), maker.setting(cell.settings))


def run_cell(sent: SentSetting, workload: Any, head: Mapping[str, Any]) -> Answer:
    """What a worker does."""
    try:
        return _experiment(replace(sent, workload=workload))(head)
    except UsageError as error:
        return Refused(str(error))


@lru_cache(maxsize=1)
def _experiment(sent: SentSetting) -> RunCell:
    """A worker often gets cells of one setting one after the other."""
    return sent.setting.experiment(sent.workload)


def _import_ray(found: Found) -> ModuleType:
    if found.node is not None and found.node.auth_mode:
        # Given an address, Ray does not see that its cluster wants tokens, even if the user's lies ready.
        os.environ.setdefault("RAY_AUTH_MODE", found.node.auth_mode)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # it would warn of what it will do one day
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what it loses is said by us in one line
    try:
        import ray
    except ImportError:
        message = "--ray: Ray is not installed; pip install 'offload-runtime[ray]'"
        raise InvalidOptionError(message) from None
    return ray


def _connect(ray: Any, asked: str, address: str, code: Path, given: Mapping[str, Any]) -> None:
    try:
        ray.init(
            address=address,
            runtime_env={"working_dir": str(code)},
            log_to_driver=False,
            logging_level=logging.ERROR,
            **given,
        )
    except (Exception, SystemExit) as error:  # noqa: BLE001  # it raises all kinds, and may want to end the process
        reason = " ".join(str(error).split())
        raise InvalidOptionError(
            f"--ray {asked}: {reason or 'it ended'}; a cluster with tokens wants its own in RAY_AUTH_TOKEN"
        ) from None


@contextmanager
def _silent() -> Iterator[None]:
    """Ray's C++ writes every try to connect to the descriptor of stderr; what came of it is said by us in one line."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        sys.stderr.flush()
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def explain(error: BaseException, cell: Cell) -> BaseException:
    """What Ray says of a cell as an error of ours; what the cell itself raised is passed on."""
    from ray.exceptions import RayError, RayTaskError

    if isinstance(error, RayTaskError):
        return error.cause if isinstance(error.cause, BaseException) else WorldError(str(error.cause))
    if isinstance(error, RayError):
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return WorldError(f"{cell}: lost by Ray in {_TRIES} tries ({reason}); run the same command again")
    return error
