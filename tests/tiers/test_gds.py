"""The question whether kvikio works, put to stand-ins for it that fail in the ways of a broken driver."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tiers import gds
from tiers.gds import find_gds

Put = Callable[[str], None]

READS = """
import numpy, os
__version__ = "26.10"
class CuFile:
    def __init__(self, path, flags): self.file = open(path, "rb", buffering=0)
    def __enter__(self): return self
    def __exit__(self, *exception): self.file.close()
    def pread(self, buffer, nbytes): return Future(self.file.readinto(numpy.asarray(buffer)[:nbytes]))
class Future:
    def __init__(self, nbytes): self.nbytes = nbytes
    def get(self): return self.nbytes
"""
NO_DRIVER = """
def CuFile(path, flags):
    print("cufile: no such device")
    raise RuntimeError("libcuda.so.1: cannot open shared object file\\nand more")
"""
HANGS = """
import ctypes
def CuFile(path, flags): ctypes.PyDLL(None).pause()  # which keeps the interpreter's lock
"""
CRASHES = """
import os
def CuFile(path, flags): os.abort()
"""


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Put:
    """A kvikio that is found before any other."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "kvikio"]:
        monkeypatch.delitem(sys.modules, name)

    def write(text: str) -> None:
        (tmp_path / "kvikio").mkdir()
        (tmp_path / "kvikio/__init__.py").write_text(text)
        (tmp_path / "kvikio/cufile_driver.py").write_text("def get(name): return False\n")
        monkeypatch.syspath_prepend(tmp_path)

    return write


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (NO_DRIVER, "RuntimeError: libcuda.so.1: cannot open shared object file"),
        (CRASHES, "its process died of signal 6"),
        ("raise ImportError('no cufile')", "ImportError: no cufile"),
    ],
    ids=["no driver", "crashes", "cannot be imported"],
)
def test_what_is_broken_is_one_line(put: Put, text: str, why: str) -> None:
    put(text)
    found = find_gds.__wrapped__()
    assert (found.works, found.is_real) == (False, False)
    assert found.note == f"kvikio does not work here: {why}"


def test_what_hangs_is_left_alone(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where it holds the lock without which no other thread of its process runs."""
    put(HANGS)
    monkeypatch.setattr(gds, "_PROBE_S", 1.0)
    assert find_gds.__wrapped__().note == "kvikio does not work here: no answer for 1 s"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a processor's memory is not hard to read into")
def test_reading_into_the_host_is_no_proof(put: Put) -> None:
    """The memory of a GPU has to be reached, and here is none."""
    put(READS)
    found = find_gds.__wrapped__()
    assert (found.works, found.is_real) == (False, False)
    assert "CUDA" in found.note or "NVIDIA" in found.note
