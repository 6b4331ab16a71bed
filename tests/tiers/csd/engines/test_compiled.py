"""Where the compiled loops cannot be kept."""

import errno
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from tiers.csd.engines import compiled as module

MODULE = "tiers.csd.engines.kernels"


def test_a_disk_that_is_full_leaves_numpy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is met before anything is attended to, not by the first call of a loop."""
    numba = pytest.importorskip("numba")
    from numba.core.caching import IndexDataCacheFile

    def save(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(IndexDataCacheFile, "save", save)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    monkeypatch.delattr("tiers.csd.engines.kernels", raising=False)
    assert module.compiled.__wrapped__() is None
