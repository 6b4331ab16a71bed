"""The compute device that was asked for: whether it is there and what it can spare."""

from typing import TYPE_CHECKING

import psutil

from tiers.errors import InvalidOptionError

if TYPE_CHECKING:
    import torch

_CONTEXT_NBYTES = 256 * 2**20
"""What libraries take of a GPU beside our arenas: handles, work buffers of matrix products, fragments."""


def torch_device(name: str) -> "torch.device":
    """The device as torch names it; ``cuda`` is the first one."""
    import torch

    return torch.device("cuda:0" if name == "cuda" else name)


def has_own_memory(name: str) -> bool:
    """Whether bytes have to be copied from the host's memory before this device can compute with them."""
    return name != "cpu"


def require_device(name: str) -> None:
    """Raises InvalidOptionError for a device that this machine does not have."""
    if name == "cpu":
        return
    import torch

    if not torch.cuda.is_available():
        raise InvalidOptionError(f"--device {name}: {_why_no_cuda()}; use --device cpu")
    index, count = torch_device(name).index, torch.cuda.device_count()
    if index >= count:
        there = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise InvalidOptionError(f"--device {name}: this machine has {there}; use one of these or cpu")


def available_bytes(name: str) -> int:
    """What may be used of the device's memory where no budget was given: what is free, less room for the rest."""
    require_device(name)
    if name == "cpu":
        return int(psutil.virtual_memory().available * 4 // 5)
    return max(0, free_bytes(name) - _CONTEXT_NBYTES) * 19 // 20


def available_host_bytes(name: str) -> int | None:
    """What may be used of the host's memory where no budget was given: half of what is free, beside a GPU.

    None, for no host tier, where the device computes in that memory itself.
    """
    return int(psutil.virtual_memory().available // 2) if has_own_memory(name) else None


def free_bytes(name: str) -> int:
    """Free memory of a CUDA device, as its driver counts it."""
    import torch

    free, _ = torch.cuda.mem_get_info(torch_device(name))
    return int(free)


def _why_no_cuda() -> str:
    """In the words of the driver, where there is one."""
    import torch

    if torch.version.cuda is None:
        return "this torch is built without CUDA"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return f"no CUDA device is usable here ({str(error).strip().splitlines()[0]})"
    return "no CUDA device is usable here"
