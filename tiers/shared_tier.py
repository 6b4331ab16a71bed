"""The host's memory where a device computes in it: boards with one memory for processor and GPU."""

import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np

from tiers.copier import as_tensor
from tiers.errors import TierError
from tiers.pinned_tier import PinnedTier
from tiers.slots import SlotLayout

if TYPE_CHECKING:
    import torch


class SharedTier(PinnedTier):
    """A MemoryTier that ``device`` computes in: drives fill slots that tensors of the device are views of.

    ``seen`` is the whole of it for the device, uint8. The mapping is registered with CUDA, whose devices then reach it.
    Once the tier is closed no tensor may be used any more. Raises TierError where the machine does not have the memory,
    or CUDA does not take it.
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
        try:
            self.seen = _seen_by(self.device, self.buffer[: self.nbytes])
            """All slots, one after the other."""
            is_shared = _is_shared(self.seen, self.buffer)
        except RuntimeError as error:
            super().close()
            note = str(error).partition("\n")[0]
            raise TierError(f"tier '{name}': cannot share memory with {device}: {note}", tier=name) from None
        if not is_shared:
            self.close()
            raise TierError(f"tier '{name}': {device} does not see what the host writes", tier=name)

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
            "data": (_device_address(int(np.frombuffer(memory, np.uint8).ctypes.data)), False),
            "strides": None,
            "version": 3,
        }


def _device_address(address: int) -> int:
    """Under which the current device finds registered memory: its own address, but on boards that say otherwise."""
    found = ctypes.c_uint64()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        code = driver.cuMemHostGetDevicePointer_v2(ctypes.byref(found), ctypes.c_void_p(address), 0)
    except (OSError, AttributeError):
        return address
    return found.value if code == 0 else address


def _seen_by(device: "torch.device", memory: memoryview) -> "torch.Tensor":
    import torch

    if not memory.nbytes:
        return torch.empty(0, dtype=torch.uint8, device=device)
    if device.type != "cuda":
        return as_tensor(memory)
    with torch.cuda.device(device):
        return torch.as_tensor(_DeviceRange(memory), device=device)


def _is_shared(seen: "torch.Tensor", memory: memoryview) -> bool:
    """Whether each sees what the other writes, tried out at both ends; they are left as they were, empty."""
    pattern = list(b"shared")
    for place in (slice(0, 6), slice(max(0, seen.nbytes - 6), seen.nbytes)) if seen.nbytes else ():
        memory[place] = bytes(pattern)
        if seen[place].tolist() != pattern:
            return False
        seen[place].zero_()
        if seen[place].any() or any(memory[place]):  # asking the device waits for it
            return False
    return True
