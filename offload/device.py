"""The compute device that was asked for: whether it is there and what it can spare."""

import os
import re
import warnings
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING

import psutil

from tiers.errors import InvalidOptionError, TierError

if TYPE_CHECKING:
    import torch

_OLD_DRIVER = re.compile(r"driver .* is too old \(found version (\d+)\)")

_CONTEXT_NBYTES = 256 * 2**20
"""What libraries take of a GPU beside our arenas: handles, work buffers of matrix products, fragments."""


class MemoryKind(Enum):
    """What a device computes in."""

    PROCESSOR = "processor"
    """The host's memory, which it is itself."""
    SHARED = "shared"
    """The host's memory, though it is a GPU: boards as the Jetson."""
    OWN = "own"
    """A memory of its own, to which bytes have to be copied."""


def torch_device(name: str) -> "torch.device":
    """The device as torch names it; ``cuda`` is the first one."""
    import torch

    return torch.device("cuda:0" if name == "cuda" else name)


def memory_kind(name: str) -> MemoryKind:
    """What the device computes in; OWN for a GPU that is not there."""
    if not is_gpu(name):
        return MemoryKind.PROCESSOR
    return MemoryKind.SHARED if _is_integrated(name) else MemoryKind.OWN


def is_gpu(name: str) -> bool:
    """Whether the device is another one than the processor."""
    return name != "cpu"


def has_own_memory(name: str) -> bool:
    """Whether bytes have to be copied from the host's memory before this device can compute with them."""
    return memory_kind(name) is MemoryKind.OWN


def require_device(name: str) -> None:
    """Raises InvalidOptionError for a device that this machine does not have."""
    if name == "cpu":
        return
    import torch

    trouble = cuda_trouble()
    if trouble is not None:
        raise InvalidOptionError(f"--device {name}: {trouble}; use --device cpu")
    check_index(name, torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES"))


def check_index(name: str, count: int, shown: str | None) -> None:
    """Raises InvalidOptionError unless ``name`` is one of ``count`` GPUs; ``shown`` is what hides others from us."""
    if (torch_device(name).index or 0) < count:
        return
    there = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
    hidden = "" if shown is None else f" (CUDA_VISIBLE_DEVICES={shown} hides others)"
    raise InvalidOptionError(f"--device {name}: this machine has {there}{hidden}; use one of these or cpu")


def available_bytes(name: str) -> int:
    """What may be used of the device's memory where no budget was given: what is free, less room for the rest."""
    require_device(name)
    if not has_own_memory(name):
        # What the driver of such a GPU calls free leaves out what the system gives back when it is asked.
        return int(psutil.virtual_memory().available * 4 // 5)
    return max(0, free_bytes(name) - _CONTEXT_NBYTES) * 19 // 20


def available_host_bytes(name: str) -> int | None:
    """What may be used of the host's memory where no budget was given: half of what is free, beside a GPU.

    None, for no host tier, where the device computes in that memory itself.
    """
    return int(psutil.virtual_memory().available // 2) if has_own_memory(name) else None


def free_bytes(name: str) -> int:
    """Free memory of a CUDA device, as its driver counts it for all processes, with what torch keeps for reuse."""
    import torch

    device = torch_device(name)
    free, _ = torch.cuda.mem_get_info(device)
    return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def total_bytes(name: str) -> int:
    """Memory of a CUDA device, or of the slice of one that this process was given."""
    import torch

    return int(torch.cuda.mem_get_info(torch_device(name))[1])


def device_uuid(name: str) -> str:
    """Of a CUDA device, without the kind that NVIDIA's tools put before it."""
    import torch

    return str(torch.cuda.get_device_properties(torch_device(name)).uuid)


@cache
def _is_integrated(name: str) -> bool:
    import torch

    device = torch_device(name)
    if not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count():
        return False
    return bool(torch.cuda.get_device_properties(device).is_integrated)


def cuda_trouble() -> str | None:
    """Why there is no CUDA device, in the words of the driver where there is one; None where there is a device."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of what we say
        if torch.cuda.is_available():
            return None
    if torch.version.cuda is None:
        return "this torch is built without CUDA"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return explain_cuda_error(str(error), torch.version.cuda)
    return "no CUDA device is usable here"


def explain_cuda_error(message: str, built_for: str) -> str:
    """What stopped CUDA, out of torch's own words; ``built_for`` is the version of CUDA of this torch."""
    if found := _OLD_DRIVER.search(message):
        version = int(found.group(1))
        supported = f"{version // 1000}.{version % 1000 // 10}"
        return (
            f"the driver supports CUDA {supported}, this torch is built for {built_for}; update the driver, or install "
            f"a torch for CUDA {supported}"
        )
    if "no NVIDIA driver" in message:
        return "no NVIDIA driver is loaded here"
    return f"no CUDA device is usable here ({message.strip().splitlines()[0]})"


def broken_device(error: RuntimeError) -> TierError | None:
    """The error in our words, where CUDA itself failed: a kernel's assertion, an address that is not there."""
    import torch

    said = next(iter(str(error).strip().splitlines()), "")
    if not isinstance(error, torch.AcceleratorError) and not said.startswith("CUDA error"):
        return None
    return TierError(
        f"device: {said}; this process cannot use it any more, start it again (CUDA_LAUNCH_BLOCKING=1 names the place)",
        tier="device",
    )
