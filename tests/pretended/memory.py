"""What of the host's memory is page-locked."""

import traceback
from weakref import WeakValueDictionary

import torch

registered: dict[int, int] = {}
"""Ranges that were registered: address and bytes."""
slow_copies: list[str] = []
"""Where a copy that should not have been waited for was one of memory that is not page-locked."""

_locked: "WeakValueDictionary[int, torch.Tensor]" = WeakValueDictionary()
_ALREADY_REGISTERED = 712


class Cudart:
    """Of ``torch.cuda.cudart()`` what we use."""

    @staticmethod
    def cudaHostRegister(address: int, nbytes: int, flags: int) -> int:  # noqa: N802 - its name
        if address in registered:
            return _ALREADY_REGISTERED
        registered[address] = nbytes
        return 0

    @staticmethod
    def cudaHostUnregister(address: int) -> int:  # noqa: N802
        del registered[address]
        return 0


def lock(tensor: torch.Tensor) -> torch.Tensor:
    """As of torch's allocator of page-locked memory."""
    _locked[tensor.untyped_storage().data_ptr()] = tensor
    return tensor


def is_locked(tensor: torch.Tensor) -> bool:
    start = tensor.untyped_storage().data_ptr()
    return start in _locked or any(first <= start < first + nbytes for first, nbytes in registered.items())


def check_locked(tensor: torch.Tensor) -> None:
    """The end in the host of a copy that nobody is to wait for."""
    if tensor.numel() and not is_locked(tensor):
        slow_copies.append("".join(traceback.format_stack(limit=8)[:-3]))
