"""What the management library of NVIDIA's driver (NVML) says of a GPU: who else holds its memory, and whether it is a
slice of one (MIG).

An optional extra. Where it is missing or fails, CUDA's own count of free memory is all there is, and that is said.
"""

import os
from dataclasses import dataclass
from typing import Any

from offload.gpu_storage import Finding, first_line, how_to_install
from offload.sizes import format_size


@dataclass(frozen=True, slots=True)
class GpuUse:
    """One GPU's memory in bytes, and the other processes in it. ``others`` pairs a process id with its bytes, or None
    where the driver does not tell how many."""

    driver: str
    total_bytes: int
    free_bytes: int
    others: tuple[tuple[int, int | None], ...]
    is_slice: bool

    def others_in_words(self) -> str:
        """Who else is there, the largest first; empty where nobody is."""
        if not self.others:
            return ""
        largest = sorted(self.others, key=lambda other: -(other[1] or 0))
        words = [f"pid {pid}" + ("" if nbytes is None else f": {format_size(nbytes)}") for pid, nbytes in largest[:3]]
        more = f" and {len(largest) - 3} more" if len(largest) > 3 else ""
        return f"other processes hold some of it ({', '.join(words)}{more})"


def read_nvml(uuid: str) -> "GpuUse | str":
    """The use of a GPU, or of a slice of one, by its UUID without the kind; or one line on why that is not known."""
    try:
        import pynvml
    except ImportError:
        return f"not installed; {how_to_install()}"
    try:
        pynvml.nvmlInit()
    except (OSError, pynvml.NVMLError) as error:
        return f"installed, but the driver does not answer: {first_line(error)}"
    try:
        return _use(pynvml, uuid)
    except pynvml.NVMLError as error:
        return f"installed, but says nothing of this GPU: {first_line(error)}"
    finally:
        pynvml.nvmlShutdown()


def probe_nvml(uuid: str | None) -> Finding:
    """For the doctor; ``uuid`` is None where there is no CUDA device."""
    found = read_nvml(uuid or "")
    if isinstance(found, str):
        return Finding(False, found)
    kind = "a slice of a GPU (MIG), " if found.is_slice else ""
    others = found.others_in_words()
    free = f"{format_size(found.free_bytes)} of {format_size(found.total_bytes)} free"
    return Finding(True, f"driver {found.driver}, {kind}{free}" + (f"; {others}" if others else ""))


def _use(pynvml: Any, uuid: str) -> GpuUse:
    handle, is_slice = _handle(pynvml, uuid)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    try:
        processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except pynvml.NVMLError:  # some drivers do not tell, in a container or of a slice
        processes = []
    others = tuple((one.pid, one.usedGpuMemory) for one in processes if one.pid != os.getpid())
    driver = pynvml.nvmlSystemGetDriverVersion()
    driver = driver.decode() if isinstance(driver, bytes) else str(driver)
    return GpuUse(driver, int(memory.total), int(memory.free), others, is_slice)


def _handle(pynvml: Any, uuid: str) -> tuple[Any, bool]:
    try:
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"), False
    except pynvml.NVMLError:
        return pynvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}"), True
