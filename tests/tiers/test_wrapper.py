"""A wrapper is what it wraps, in every respect."""

from contextlib import closing
from pathlib import Path

import pytest

from tests.contracts.tier import BLOCK_NBYTES, NUM_SLOTS
from tests.tiers.test_memory_tier import TestMemoryTier as MemoryTierSuite
from tests.tiers.test_nvme_tier import TestNVMeTier as NVMeTierSuite
from tiers.io_queue import IOQueue, ThreadQueue
from tiers.memory_tier import MemoryTier
from tiers.nvme_tier import NVMeTier
from tiers.tier import SupportsChecksum, SupportsDirectIO, SupportsView, Tier
from tiers.wrapper import TierWrapper


class TestWrappedMemoryTier(MemoryTierSuite):
    def make(self, directory: Path) -> Tier:
        return TierWrapper(MemoryTier("host", NUM_SLOTS, BLOCK_NBYTES))

    def get(self, tier: Tier, slot: int) -> bytes:
        return super().get(_unwrap(tier), slot)

    def put(self, tier: Tier, slot: int, data: bytes) -> None:
        super().put(_unwrap(tier), slot, data)


class TestWrappedNVMeTier(NVMeTierSuite):
    def make(self, directory: Path) -> Tier:
        return TierWrapper(TierWrapper(NVMeTier(directory, NUM_SLOTS, BLOCK_NBYTES)))

    def get(self, tier: Tier, slot: int) -> bytes:
        return super().get(_unwrap(tier), slot)

    def put(self, tier: Tier, slot: int, data: bytes) -> None:
        super().put(_unwrap(tier), slot, data)


def _unwrap(tier: Tier) -> Tier:
    while isinstance(tier, TierWrapper):
        tier = tier.wrapped
    return tier


class OneAtATime(TierWrapper):
    """Changes an ability that only some tiers have."""

    def _open_queue(self, depth: int) -> IOQueue:
        return ThreadQueue(1)


def test_has_just_the_abilities_of_what_it_wraps(tmp_path: Path) -> None:
    with closing(OneAtATime(MemoryTier("host", 1, 4096))) as memory:
        assert isinstance(memory, SupportsView)
        assert not isinstance(memory, SupportsDirectIO)
        assert not isinstance(memory, SupportsChecksum)
    with closing(OneAtATime(NVMeTier(tmp_path, 1, 4096))) as nvme:
        assert not isinstance(nvme, SupportsView)
        assert isinstance(nvme, SupportsDirectIO)
        assert isinstance(nvme, SupportsChecksum)


def test_a_changed_ability_takes_the_place_of_the_wrapped_one(tmp_path: Path) -> None:
    with closing(OneAtATime(NVMeTier(tmp_path, 1, 4096))) as tier:
        assert isinstance(tier, SupportsDirectIO)
        with closing(tier.open_queue(8)) as queue:
            assert queue.depth == 1


def test_shows_what_it_wraps(tmp_path: Path) -> None:
    with closing(TierWrapper(NVMeTier(tmp_path, 1, 4096, name="scratch"))) as tier:
        assert (tier.name, tier.directory) == ("scratch", tmp_path)
        with pytest.raises(AttributeError):
            tier.buffer  # noqa: B018
        with pytest.raises(AttributeError):
            tier._fd  # noqa: B018
