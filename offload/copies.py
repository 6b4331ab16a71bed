"""Small things that go between the host and the device in the middle of a layer: each waited for at most once."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def on_host(*tensors: Tensor) -> list[Tensor]:
    """The same numbers in the host's memory, waited for once for all; what is there already is not copied."""
    first = tensors[0]
    if not first.is_cuda:
        return list(tensors)
    copies = [torch.empty(given.shape, dtype=given.dtype, pin_memory=True) for given in tensors]
    for copy, given in zip(copies, tensors, strict=True):
        copy.copy_(given, non_blocking=True)
    torch.cuda.current_stream(first.device).synchronize()
    return copies


def on_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """The same numbers on ``device``, for work that it is given from now on; nobody waits.

    Out of pageable memory a copy would wait for all that the device has been given before.
    """
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def refill(target: Tensor, array: NDArray[Any]) -> None:
    """Put the same numbers into ``target``, for work that its device is given from now on; nobody waits.

    They may change as soon as this returns.
    """
    tensor = torch.from_numpy(array)
    target.copy_(tensor.pin_memory() if target.is_cuda else tensor, non_blocking=True)
