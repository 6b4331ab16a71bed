"""Devices to run a test on: the processor, which pretends to be one, and a CUDA device where there is one."""

import pytest
import torch

from tests.tiers.kit import content
from tests.tiers.watched import BLOCK, NUM_SLOTS
from tiers.device_tier import DeviceTier
from tiers.memory_tier import MemoryTier
from tiers.pinned_tier import PinnedTier

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
on_cuda = [pytest.mark.gpu, needs_cuda]
CUDA = pytest.param("cuda", marks=on_cuda)
on_every_device = pytest.mark.parametrize("device", ["cpu", CUDA])


def device_tier(device: str, num_slots: int = NUM_SLOTS, block_nbytes: int = BLOCK) -> DeviceTier:
    tier = DeviceTier("device", num_slots, block_nbytes, device)
    tier.buffer.zero_()
    return tier


def host_tier(device: str, num_slots: int = NUM_SLOTS, block_nbytes: int = BLOCK) -> MemoryTier:
    """Pinned for that device. Slot ``i`` holds ``content(i)``."""
    tier = PinnedTier("host", num_slots, block_nbytes, device=device)
    for slot in range(num_slots):
        tier.view(slot)[:] = content(slot, block_nbytes)
    return tier


def bytes_of(tier: DeviceTier, slot: int) -> bytes:
    return tier.tensor(slot).cpu().numpy().tobytes()


def holds(tier: DeviceTier, slots: dict[int, int]) -> bool:
    """Whether slots hold ``content`` of these numbers, and all others nothing."""
    for slot in range(tier.num_slots):
        expected = content(slots[slot], tier.block_nbytes) if slot in slots else bytes(tier.block_nbytes)
        if bytes_of(tier, slot) != expected:
            return False
    return True
