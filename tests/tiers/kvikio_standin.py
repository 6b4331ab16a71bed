"""What we use of kvikio, done on the processor: reads of real files by threads, into tensors of host memory."""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest

from tiers.gds import GdsSupport


class _Read:
    def __init__(self, future: "Future[int]") -> None:
        self._future = future

    def get(self) -> int:
        return self._future.result()

    def done(self) -> bool:
        return self._future.done()


@contextmanager
def standin(monkeypatch: pytest.MonkeyPatch, *, knows_o_direct: bool = True) -> Iterator[dict[str, Any]]:
    """kvikio works, for as long as this is open; yields its settings."""
    known = {"num_threads", "task_size"} | ({"auto_direct_io_read"} if knows_o_direct else set())
    settings: dict[str, Any] = {}
    pool = ThreadPoolExecutor(4)

    class CuFile:
        def __init__(self, path: str, flags: str = "r") -> None:
            assert flags == "r"
            self._fd = os.open(path, os.O_RDONLY)

        def pread(self, buf: Any, size: int, file_offset: int = 0, task_size: int | None = None) -> _Read:
            assert task_size == settings["task_size"]
            return _Read(pool.submit(os.preadv, self._fd, [buf.numpy()[:size]], file_offset))

        def close(self) -> None:
            os.close(self._fd)

    def set_(config: dict[str, Any]) -> None:
        for name in config:
            if name not in known:
                raise KeyError(name)
        settings.update(config)

    kvikio: Any = ModuleType("kvikio")
    kvikio.CuFile, kvikio.defaults = CuFile, ModuleType("kvikio.defaults")
    kvikio.defaults.set = set_
    monkeypatch.setitem(sys.modules, "kvikio", kvikio)
    monkeypatch.setitem(sys.modules, "kvikio.defaults", kvikio.defaults)
    monkeypatch.setattr("tiers.open_link.find_gds", lambda: GdsSupport(True, False, "a stand-in"))
    with pool:
        yield settings
