"""A tier in the memory of a device that torch computes on."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import numpy as np

from tiers.errors import TierError
from tiers.slots import ALIGNMENT, SlotLayout, even_slots, slots_of_sizes
from tiers.tier import Tier

if TYPE_CHECKING:
    import torch


class DeviceTier(Tier):
    """One flat uint8 tensor on ``device``, "cuda:0" or "cpu", cut into slots. Implements SupportsDeviceTensor.

    ``layout`` says where the slots lie if they are not all of one size. Raises TierError if the device does not have
    the memory. ``read`` and ``write`` are ordered with the work on the caller's current stream.
    """

    def __init__(
        self,
        name: str,
        num_slots: int,
        block_nbytes: int,
        device: "torch.device | str",
        layout: SlotLayout | None = None,
    ) -> None:
        import torch

        self.name = name
        self.num_slots = num_slots
        self.block_nbytes = block_nbytes
        self.device = torch.device(device)
        self._layout = layout or even_slots(num_slots, block_nbytes)
        self.buffer = _allocate(name, self._layout.nbytes, self.device)
        """All slots, one after the other."""

    @classmethod
    def of_sizes(cls, name: str, sizes: Sequence[int], device: "torch.device | str") -> Self:
        """A tier whose slots have sizes of their own, in whole pages; ``block_nbytes`` is the largest."""
        return cls(name, len(sizes), max(sizes, default=0), device, slots_of_sizes(sizes))

    @property
    def nbytes(self) -> int:
        """Bytes of all slots together."""
        return self._layout.nbytes

    def tensor(self, slot: int) -> "torch.Tensor":
        starts = self._layout.starts
        return self.buffer[starts[slot] : starts[slot + 1]]

    def flat(self) -> "torch.Tensor":
        return self.buffer

    def layout(self) -> SlotLayout:
        return self._layout

    def read(self, slot: int, buffer: memoryview) -> None:
        np.copyto(np.frombuffer(buffer, np.uint8), self.tensor(slot)[: buffer.nbytes].cpu().numpy())

    def write(self, slot: int, buffer: memoryview) -> None:
        import torch

        tensor = self.tensor(slot)
        if buffer.nbytes > tensor.nbytes:
            raise TierError(f"tier '{self.name}': {buffer.nbytes} bytes do not fit in slot {slot}", tier=self.name)
        # A copy first, because torch makes no tensor of bytes that may not be written.
        tensor[: buffer.nbytes].copy_(torch.from_numpy(np.array(buffer, np.uint8)))

    def close(self) -> None:
        """Let go of the memory; a tensor that looks into it keeps it alive."""
        self.buffer = self.buffer[:0].clone()


def _allocate(tier: str, nbytes: int, device: "torch.device") -> "torch.Tensor":
    """Memory of the device that starts at a multiple of ALIGNMENT, as cuFile likes it."""
    import torch

    try:
        memory = torch.empty(nbytes + ALIGNMENT, dtype=torch.uint8, device=device)
    except RuntimeError as error:
        # torch.OutOfMemoryError is one; the allocator of a CPU raises the class itself.
        raise TierError(_no_memory(tier, nbytes, device, error), tier=tier) from None
    start = -memory.data_ptr() % ALIGNMENT
    return memory[start : start + nbytes]


def _no_memory(tier: str, nbytes: int, device: "torch.device", error: RuntimeError) -> str:
    import torch

    wanted = f"tier '{tier}': {nbytes:,} bytes of memory on {device}"
    if isinstance(error, torch.OutOfMemoryError):
        free, _ = torch.cuda.mem_get_info(device)
        return f"{wanted}: {free:,} are free; lower its budget"
    return f"{wanted}: {str(error).splitlines()[0]}; lower its budget"
