"""The device's arenas, wherever its memory is: slots that tensors are views of."""

from collections.abc import Sequence

from torch import Tensor

from offload.device import MemoryKind, memory_kind, torch_device
from tiers.device_tier import DeviceTier
from tiers.memory_tier import MemoryTier
from tiers.pinned_tier import PinnedTier
from tiers.shared_tier import SharedTier

Arena = MemoryTier | DeviceTier

SlotBytes = memoryview | Tensor
"""The bytes of a slot, or of a whole arena: host memory, or a tensor of uint8 in the device's own."""


def make_arena(device: str, num_slots: int, block_nbytes: int) -> Arena:
    """Slots of one size. Raises TierError where the device has not so much memory left.

    Where a GPU computes in the host's memory, drives read into the very slots.
    """
    kind = memory_kind(device)
    if kind is MemoryKind.SHARED:
        return SharedTier("device", num_slots, block_nbytes, device=torch_device(device))
    if kind is MemoryKind.PROCESSOR:
        return MemoryTier("device", num_slots, block_nbytes)
    return DeviceTier("device", num_slots, block_nbytes, torch_device(device))


def make_resident_arena(device: str, sizes: Sequence[int]) -> Arena:
    """Slots of sizes of their own, for what never leaves. Raises TierError as ``make_arena``."""
    kind = memory_kind(device)
    if kind is MemoryKind.SHARED:
        return SharedTier.of_sizes("device", sizes, device=torch_device(device))
    if kind is MemoryKind.PROCESSOR:
        return MemoryTier.of_sizes("device", sizes)
    return DeviceTier.of_sizes("device", sizes, torch_device(device))


def make_host_arena(device: str, num_slots: int, block_nbytes: int) -> MemoryTier:
    """Slots of the host's memory, page-locked where a device copies from them. Raises TierError."""
    if memory_kind(device) is MemoryKind.PROCESSOR:
        return MemoryTier("host", num_slots, block_nbytes)
    return PinnedTier("host", num_slots, block_nbytes, device=torch_device(device))


def slot_bytes(arena: Arena, slot: int) -> SlotBytes:
    """The bytes of a slot, without a copy."""
    if isinstance(arena, SharedTier):
        return arena.seen_slot(slot)
    return arena.tensor(slot) if isinstance(arena, DeviceTier) else arena.view(slot)


def arena_bytes(arena: Arena) -> SlotBytes:
    """The bytes of all slots, one after the other, without a copy."""
    return arena.seen if isinstance(arena, SharedTier) else arena.buffer
