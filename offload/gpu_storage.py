"""Whether CUDA, kvikio, cupy, page-locked memory and GPU-direct storage work here, and if not what is missing."""

import importlib.util
from dataclasses import dataclass

from offload.device import cuda_trouble
from tiers.gds import find_gds

_PIN_NBYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether something is usable here, and a word on how or why not."""

    is_usable: bool
    note: str


def how_to_install() -> str:
    """What to do about a missing package of the GPU extras: the one for the CUDA of this torch."""
    import torch

    version = 13 if (torch.version.cuda or "").startswith("13.") else 12
    return f"needed with CUDA only: pip install 'offload-runtime[gpu-cuda{version}]'"


def probe_cuda() -> Finding:
    """Whether torch finds a CUDA device, and if not why."""
    import torch

    trouble = cuda_trouble()
    return Finding(trouble is None, trouble or f"{torch.cuda.device_count()} devices, CUDA {torch.version.cuda}")


def probe_kvikio() -> Finding:
    """Importing proves little: only reading a file into memory of the device shows whether kvikio works."""
    if importlib.util.find_spec("kvikio") is None:
        return Finding(False, f"not installed; {how_to_install()}")
    found = find_gds()
    return Finding(found.works, found.note)


def probe_gds() -> Finding:
    """Whether the drive can write into device memory itself. kvikio works without it, through host memory."""
    found = find_gds()
    return Finding(found.is_real, found.note)


def probe_pinned(device: str) -> Finding:
    """Whether memory of the host can be page-locked for a device, by locking some."""
    from tiers.locked_memory import locked_memory_limit
    from tiers.pinned_tier import PinnedTier

    limit = locked_memory_limit()
    allowed = "ulimit -l sets no limit" if limit is None else f"ulimit -l allows {limit:,} bytes"
    tier = PinnedTier("probe", 1, _PIN_NBYTES, device=device)
    try:
        return Finding(tier.is_pinned, f"{tier.note}; {allowed}")
    finally:
        tier.close()


def probe_cupy() -> Finding:
    """Whether cupy finds a device. Without CUDA it can be imported all the same."""
    if importlib.util.find_spec("cupy") is None:
        return Finding(False, f"not installed; {how_to_install()}")
    try:
        import cupy

        count = cupy.cuda.runtime.getDeviceCount()
    except (ImportError, OSError, RuntimeError) as error:
        return Finding(False, f"installed, but finds no device: {first_line(error)}")
    return Finding(count > 0, f"version {cupy.__version__}, {count} devices")


def first_line(error: Exception) -> str:
    """Of what an error says, or its name where it says nothing."""
    return (str(error) or type(error).__name__).splitlines()[0]
