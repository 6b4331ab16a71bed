"""How bytes get into the queue's memory and out of it: from arrays of the host, or straight from a device's memory."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from tiers.pinned_tier import pin

if TYPE_CHECKING:
    from weakref import finalize

    import torch

    from tiers.csd.commands import Reals


class QueuePath(Protocol):
    """For the data of commands and of replies."""

    @property
    def note(self) -> str:
        """Why it is slower than it could be, in one line; "" where it is not."""
        ...

    def put(self, parts: Sequence[NDArray[Any]], place: memoryview) -> None:
        """Fill ``place`` with the parts, one behind the other; they may change when this returns."""
        ...

    def take(self, place: memoryview) -> "bytearray | torch.Tensor":
        """What is there: its place in the queue is wanted again."""
        ...

    def close(self) -> None:
        """Before the memory goes. Idempotent."""
        ...


class HostPath:
    """Arrays of the host."""

    note = ""

    def put(self, parts: Sequence[NDArray[Any]], place: memoryview) -> None:
        """See QueuePath."""
        end = 0
        for part in parts:
            place[end : end + part.nbytes] = np.ascontiguousarray(part).reshape(-1).data.cast("B")
            end += part.nbytes

    def take(self, place: memoryview) -> "bytearray | torch.Tensor":
        """See QueuePath: a copy that can be written to, since its arrays become tensors."""
        return bytearray(place)

    def close(self) -> None:
        """Nothing to give back."""


class DevicePath:
    """Tensors of a device too: its copy engine moves them between its memory and the queue, one copy each way.

    The queue's memory is locked for a CUDA device; ``note`` says why where it is not, and then the driver copies by a
    buffer of its own. Tensors of the processor are copied as they are.
    """

    def __init__(self, memory: memoryview, device: "torch.device | str") -> None:
        self._device = device
        self._arrays = HostPath()
        self._unpin: finalize[..., object] | None
        self._unpin, said = pin(self, memory, device)
        self.note = "" if self._unpin else f"the queue is {said}"

    def put(self, parts: Sequence[NDArray[Any]], place: memoryview) -> None:
        """See QueuePath. Tensors stand behind all arrays (descriptors), and travel together."""
        import torch

        arrays = [part for part in parts if not on_device(part)]
        tensors = [cast("torch.Tensor", part) for part in parts[len(arrays) :]]
        assert all(on_device(part) for part in tensors), "arrays come first"
        self._arrays.put(arrays, place)
        if not tensors:
            return
        flat = [tensor.contiguous().view(-1).view(torch.uint8) for tensor in tensors]
        start = sum(array.nbytes for array in arrays)
        target = torch.frombuffer(place, dtype=torch.uint8)[start:]
        target.copy_(flat[0] if len(flat) == 1 else torch.cat(flat), non_blocking=True)
        self._finish()

    def take(self, place: memoryview) -> "bytearray | torch.Tensor":
        """See QueuePath: in the device's memory."""
        import torch

        taken = torch.empty(place.nbytes, dtype=torch.uint8, device=self._device)
        taken.copy_(torch.frombuffer(place, dtype=torch.uint8), non_blocking=True)
        self._finish()
        return taken

    def close(self) -> None:
        """See QueuePath."""
        if self._unpin is not None:
            self._unpin()

    def _finish(self) -> None:
        """The drive may look, or the place be used again, only when the copy has ended."""
        import torch

        if torch.device(self._device).type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()


def as_array(tensor: "torch.Tensor") -> "Reals":
    """A device's tensor in the place of an array of a command: shape, size and slices are alike.

    Only a drive with a DevicePath takes it, and answers with tensors.
    """
    return cast("Reals", tensor)


def on_device(array: object) -> bool:
    """Whether that is a tensor in the place of an array."""
    return not isinstance(array, np.ndarray)


def side_by_side(parts: "Sequence[Reals]", axis: int) -> "Reals":
    """Arrays joined, or tensors."""
    if not on_device(parts[0]):
        return cast("Reals", np.concatenate(parts, axis=axis))
    import torch

    return as_array(torch.cat(cast("list[torch.Tensor]", list(parts)), axis))


def tensors_in(data: "torch.Tensor", parts: Sequence[tuple[tuple[int, ...], str]]) -> "list[Reals]":
    """As ``arrays_in``, of bytes on a device."""
    import torch

    found, position = [], 0
    for shape, name in parts:
        dtype: torch.dtype = getattr(torch, name)
        nbytes = int(np.prod(shape)) * dtype.itemsize
        found.append(as_array(data[position : position + nbytes].view(dtype).reshape(shape)))
        position += nbytes
    return found
