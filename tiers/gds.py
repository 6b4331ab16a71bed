"""Whether a drive can write into the memory of a GPU itself (GPUDirect Storage), as kvikio finds it."""

import os
import tempfile
import threading
from dataclasses import dataclass
from functools import cache

_PROBE_S = 20.0
"""A driver that is broken may hang where it should fail."""


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
    """Ask once: that kvikio can be imported proves little, so a file is opened and read into memory of the device."""
    found: list[GdsSupport] = []
    # A daemon, so that a probe that hangs is left behind.
    thread = threading.Thread(target=lambda: found.append(_probe()), name="gds-probe", daemon=True)
    thread.start()
    thread.join(_PROBE_S)
    return found[0] if found else GdsSupport(False, False, f"kvikio gave no answer for {_PROBE_S:g} s")


def _probe() -> GdsSupport:
    try:
        import kvikio
        import kvikio.cufile_driver
        import torch

        target = torch.zeros(4096, dtype=torch.uint8, device="cuda")
        with tempfile.NamedTemporaryFile() as file:
            file.write(os.urandom(4096))
            file.flush()
            with kvikio.CuFile(file.name, "r") as opened:
                moved = opened.pread(target, 4096).get()
        if moved != 4096:
            return GdsSupport(False, False, f"kvikio read {moved} of 4096 bytes")
        if not kvikio.cufile_driver.get("is_gds_available"):
            note = f"kvikio {kvikio.__version__} works through host memory: no nvidia-fs, no P2PDMA"
            return GdsSupport(True, False, note)
    except Exception as error:  # noqa: BLE001 - ImportError, RuntimeError of a missing driver, whatever else
        note = f"kvikio does not work here: {type(error).__name__}: {error}".splitlines()[0]
        return GdsSupport(False, False, note)
    return GdsSupport(True, True, f"kvikio {kvikio.__version__}, GPUDirect Storage")
