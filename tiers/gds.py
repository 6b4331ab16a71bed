"""Whether a drive can write into the memory of a GPU itself (GPUDirect Storage), as kvikio finds it."""

import importlib.util
import os
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

from tiers.errors import first_line

_PROBE_S = 20.0
"""A driver that is broken may hang where it should fail."""
_NBYTES = 4096

_TRIAL = """
import sys
try:
    import numpy, kvikio
    with kvikio.CuFile(sys.argv[1], "r") as file:
        file.pread(numpy.empty(int(sys.argv[2]), numpy.uint8), int(sys.argv[2])).get()
except BaseException as error:
    print(f"\\n@{type(error).__name__}: {error}")
    sys.exit(1)
"""
"""A read into memory of the host: it starts all that kvikio and its driver start, and takes no memory of a GPU."""


@dataclass(frozen=True, slots=True)
class GdsSupport:
    """What kvikio can do here; ``note`` says it in one line."""

    works: bool
    """It reads into memory of the device, one way or another."""
    is_real: bool
    """No host memory is in between."""
    note: str


@cache
def find_gds() -> GdsSupport:
    """Ask once: that kvikio can be imported proves little, so a file is opened and read into memory of the device.

    Opened by a process of its own first. A driver that hangs may do so without letting go of the interpreter, and one
    that crashes takes its process along.
    """
    if importlib.util.find_spec("kvikio") is None:
        return _unusable("it is not installed")
    with tempfile.NamedTemporaryFile() as file:
        file.write(os.urandom(_NBYTES))
        file.flush()
        trouble = _try_apart(file.name)
        if trouble is not None:
            return _unusable(trouble)
        found: list[GdsSupport] = []
        # A daemon, so that a probe that hangs is left behind.
        thread = threading.Thread(target=lambda: found.append(_probe(file.name)), name="gds-probe", daemon=True)
        thread.start()
        thread.join(_PROBE_S)
    return found[0] if found else _unusable(f"no answer for {_PROBE_S:g} s")


def _unusable(why: str) -> GdsSupport:
    return GdsSupport(False, False, f"kvikio does not work here: {why}")


def _try_apart(path: str) -> str | None:
    """What stops kvikio from reading a file, in a few words; None where nothing does."""
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", _TRIAL, path, str(_NBYTES)],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        try:
            status = child.wait(_PROBE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            with suppress(subprocess.TimeoutExpired):  # what hangs inside the kernel does not even die
                child.wait(1)
            return f"no answer for {_PROBE_S:g} s"
        except BaseException:
            child.kill()
            raise
        if status == 0:
            return None
        said.seek(0)
        # Behind what the driver itself may have printed.
        why = first_line(said.read().decode(errors="replace").rpartition("\n@")[2])
    return f"its process died of signal {-status}" if status < 0 else why


def _probe(path: str) -> GdsSupport:
    try:
        import kvikio
        import kvikio.cufile_driver
        import torch

        target = torch.zeros(_NBYTES, dtype=torch.uint8, device="cuda")
        with kvikio.CuFile(path, "r") as opened:
            moved = opened.pread(target, _NBYTES).get()
        if moved != _NBYTES:
            return _unusable(f"it read {moved} of {_NBYTES} bytes")
        if not kvikio.cufile_driver.get("is_gds_available"):
            note = f"kvikio {kvikio.__version__} works through host memory: no nvidia-fs, no P2PDMA"
            return GdsSupport(True, False, note)
    except Exception as error:  # noqa: BLE001 - RuntimeError of a missing driver, whatever else
        return _unusable(first_line(f"{type(error).__name__}: {error}"))
    return GdsSupport(True, True, f"kvikio {kvikio.__version__}, GPUDirect Storage")
