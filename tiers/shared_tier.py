"""The host's memory where a device computes in it: boards with one memory for processor and GPU."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tiers.copier import as_tensor
from tiers.errors import TierError
from tiers.pinned_tier import PinnedTier
from tiers.slots import SlotLayout, slots_of_sizes

if TYPE_CHECKING:
    import torch


class SharedTier(PinnedTier):
    """A MemoryTier that ``device`` computes in: drives fill slots that tensors of the device are views of.

    ``seen`` is the whole of it for the device, uint8. The mapping is registered with CUDA, whose devices then reach it
    under its own address. Once the tier is closed no tensor may be used any more. Raises TierError where the machine
    does not have the memory, or CUDA does not take it.
    """

    def __init__(
        self,
        name: str,
        num_slots: int,
        block_nbytes: int,
        layout: SlotLayout | None = None,
        *,
        device: "torch.device | str",
    ) -> None:
        import torch

        super().__init__(name, num_slots, block_nbytes, layout, device=device)
        self.device = torch.device(device)
        if self.device.type == "cuda" and self.nbytes and not self.is_pinned:
            note = self.note.removeprefix("not pinned: ")
            super().close()
            raise TierError(f"tier '{name}': cannot share memory with {device}: {note}", tier=name)
        self.seen = _seen_by(self.device, self.buffer[: self.nbytes])
        """All slots, one after the other."""

    @classmethod
    def of_sizes(cls, name: str, sizes: Sequence[int], *, device: "torch.device | str" = "cuda") -> Self:
        """A tier whose slots have sizes of their own, in whole pages; ``block_nbytes`` is the largest."""
        return cls(name, len(sizes), max(sizes, default=0), slots_of_sizes(sizes), device=device)

    def seen_slot(self, slot: int) -> "torch.Tensor":
        """The bytes of a slot for the device, without a copy."""
        starts = self.layout().starts
        return self.seen[starts[slot] : starts[slot + 1]]

    def close(self) -> None:
        self.seen = self.seen[:0].clone()
        super().close()


class _DeviceRange:
    """A range of addresses as torch takes it from other libraries; keeps the memory as long as a tensor looks at it."""

    def __init__(self, memory: memoryview) -> None:
        self.memory = memory
        self.__cuda_array_interface__: dict[str, Any] = {
            "shape": (memory.nbytes,),
            "typestr": "|u1",
            "data": (int(np.frombuffer(memory, np.uint8).ctypes.data), False),
            "strides": None,
            "version": 3,
        }


def _seen_by(device: "torch.device", memory: memoryview) -> "torch.Tensor":
    import torch

    if not memory.nbytes:
        return torch.empty(0, dtype=torch.uint8, device=device)
    if device.type != "cuda":
        return as_tensor(memory)
    return torch.as_tensor(_DeviceRange(memory[:]), device=device)
