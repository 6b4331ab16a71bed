"""The seam to the copy engines of a device, and the plain copier of tensors in this process's memory."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from tiers.copies import Runs

if TYPE_CHECKING:
    import torch


class Copy(ABC):
    """A copy under way."""

    @abstractmethod
    def is_done(self) -> bool:
        """Whether it has ended; never blocks."""

    @abstractmethod
    def wait(self) -> None:
        """Return when it has ended."""


class Copier(ABC):
    """Copies between two flat uint8 tensors, in the order in which they are asked for. For one link and its thread.

    ``note`` says in one line what was slower than it could be, and why; "" where nothing was.
    """

    note = ""

    @abstractmethod
    def mark(self) -> object:
        """On the caller's thread: what the device has been given to do so far. ``after`` of the copies to come."""

    @abstractmethod
    def reach(self, after: object) -> None:
        """Return when the device has done what ``after`` marks."""

    @abstractmethod
    def copy(self, source: "torch.Tensor", target: "torch.Tensor", runs: Runs, after: object) -> Copy:
        """Start copying, once the device has done what ``after`` marks; both tensors stay as they are until then."""

    @abstractmethod
    def close(self) -> None:
        """Wait for what is under way."""


def open_copier(device: "torch.device") -> Copier:
    """The copier for transfers to or from a device."""
    if device.type == "cuda":
        from tiers.cuda_copier import CudaCopier

        return CudaCopier(device)
    return PlainCopier()


class PlainCopier(Copier):
    """Copies at once."""

    def mark(self) -> object:
        return None

    def reach(self, after: object) -> None:
        pass

    def copy(self, source: "torch.Tensor", target: "torch.Tensor", runs: Runs, after: object) -> Copy:
        for start, place, nbytes in runs.tolist():
            target[place : place + nbytes].copy_(source[start : start + nbytes])
        return _Done()

    def close(self) -> None:
        pass


class _Done(Copy):
    def is_done(self) -> bool:
        return True

    def wait(self) -> None:
        pass


def as_tensor(memory: "memoryview | torch.Tensor") -> "torch.Tensor":
    """The memory of a tier, or of a slot, as a flat uint8 tensor, without a copy.

    It lives as long as the tensor, also where its tier is closed before.
    """
    import torch

    if isinstance(memory, torch.Tensor):
        return memory
    # Of a memoryview of its own, which a tier that lets go of its own one does not end.
    return torch.frombuffer(memory[:], dtype=torch.uint8) if memory.nbytes else torch.empty(0, dtype=torch.uint8)
