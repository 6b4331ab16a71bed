"""Whether kvikio, cupy and GPU-direct storage work here, and if not what is missing."""

import importlib.util
import tempfile
from dataclasses import dataclass

_INSTALL = "needed with CUDA only: pip install 'offload-runtime[gpu-cuda12]'"


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether something is usable here, and a word on how or why not."""

    is_usable: bool
    note: str


def probe_kvikio() -> Finding:
    """Importing proves little: only opening a file shows whether kvikio finds a driver that it can work with."""
    if importlib.util.find_spec("kvikio") is None:
        return Finding(False, f"not installed; {_INSTALL}")
    try:
        import kvikio

        with tempfile.NamedTemporaryFile() as file, kvikio.CuFile(file.name, "r"):
            return Finding(True, f"version {kvikio.__version__} opens files")
    except (ImportError, OSError, RuntimeError) as error:
        return Finding(False, f"installed, but cannot open a file: {_first_line(error)}")


def probe_gds(kvikio: Finding) -> Finding:
    """Whether the drive can write into device memory itself. kvikio works without it, through host memory."""
    if not kvikio.is_usable:
        return Finding(False, "kvikio is not usable")
    try:
        from kvikio import cufile_driver

        if cufile_driver.get("is_gds_available"):
            return Finding(True, "cuFile reads from the drive into device memory")
    except (ImportError, AttributeError, OSError, RuntimeError, ValueError) as error:
        return Finding(False, f"cuFile cannot say: {_first_line(error)}")
    return Finding(False, "no nvidia-fs driver: kvikio reads through host memory")


def probe_cupy() -> Finding:
    """Whether cupy finds a device. Without CUDA it can be imported all the same."""
    if importlib.util.find_spec("cupy") is None:
        return Finding(False, f"not installed; {_INSTALL}")
    try:
        import cupy

        count = cupy.cuda.runtime.getDeviceCount()
    except (ImportError, OSError, RuntimeError) as error:
        return Finding(False, f"installed, but finds no device: {_first_line(error)}")
    return Finding(count > 0, f"version {cupy.__version__}, {count} devices")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
