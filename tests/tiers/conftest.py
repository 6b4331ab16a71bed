"""Tiers, engines and managers that are torn down again."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.tiers.house import Build, House
from tests.tiers.kit import content
from tests.tiers.watched import BLOCK, NUM_SLOTS, WatchedTier
from tiers.fault_injection import Fault, FaultPlan, FaultyTier
from tiers.memory_tier import MemoryTier
from tiers.nvme_tier import NVMeTier
from tiers.transfer import TransferEngine


@pytest.fixture
def host() -> Iterator[MemoryTier]:
    with closing(MemoryTier("host", NUM_SLOTS, BLOCK)) as tier:
        yield tier


@pytest.fixture
def nvme(tmp_path: Path) -> Iterator[NVMeTier]:
    """Slot ``i`` holds ``content(i)``."""
    with closing(NVMeTier(tmp_path, NUM_SLOTS, BLOCK)) as tier:
        for slot in range(NUM_SLOTS):
            tier.write(slot, memoryview(content(slot, BLOCK)))
        yield tier


@pytest.fixture
def engine() -> Iterator[TransferEngine]:
    with closing(TransferEngine()) as engine:
        yield engine


@pytest.fixture
def slow(nvme: NVMeTier) -> WatchedTier:
    """A drive whose first read takes until ``slow.faulty.release()``."""
    return WatchedTier(FaultyTier(nvme, FaultPlan(reads={0: Fault.HANG})))


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Build]:
    """Makes houses, checks their books and tears them down."""
    houses: list[House] = []

    def make(levels: dict[str, int], **options: object) -> House:
        house = House(tmp_path / str(len(houses)), levels, **options)  # type: ignore[arg-type]  # passed on as they are
        houses.append(house)
        return house

    yield make
    for house in houses:
        house.manager.check()
        house.close()
