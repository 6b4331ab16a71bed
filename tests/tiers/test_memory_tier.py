"""Memory as a tier."""

from pathlib import Path

import numpy as np
import pytest

from tests.contracts.tier import BLOCK_NBYTES, NUM_SLOTS, TierContract
from tiers.errors import TierError
from tiers.memory_tier import MemoryTier
from tiers.tier import SupportsChecksum, SupportsDirectIO, SupportsView, Tier


class TestMemoryTier(TierContract):
    def make(self, directory: Path) -> Tier:
        return MemoryTier("host", NUM_SLOTS, BLOCK_NBYTES)

    def get(self, tier: Tier, slot: int) -> bytes:
        assert isinstance(tier, MemoryTier)
        return bytes(tier.buffer)[slot * BLOCK_NBYTES :][:BLOCK_NBYTES]

    def put(self, tier: Tier, slot: int, data: bytes) -> None:
        assert isinstance(tier, MemoryTier)
        tier.buffer[slot * BLOCK_NBYTES : (slot + 1) * BLOCK_NBYTES] = data


def test_is_memory_and_nothing_else() -> None:
    tier = MemoryTier("host", 1, 4096)
    assert isinstance(tier, SupportsView)
    assert not isinstance(tier, SupportsDirectIO | SupportsChecksum)
    tier.close()


def test_may_have_no_slots() -> None:
    """A budget of nothing is a tier all the same."""
    tier = MemoryTier("host", 0, 4096)
    assert tier.num_slots == 0
    tier.close()


def test_outlives_close_while_a_tensor_looks_into_it() -> None:
    tier = MemoryTier("host", 2, 4096)
    array = np.frombuffer(tier.view(1), np.uint8)
    tier.view(1)[:] = bytes([7]) * 4096
    tier.close()
    tier.close()
    assert array.sum() == 7 * 4096


def test_says_how_much_memory_there_is_not() -> None:
    with pytest.raises(TierError, match=r"tier 'device': 288,230,376,151,711,744 bytes of memory: .*lower its budget"):
        MemoryTier("device", 2**46, 4096)
