"""What every tier owes its caller. Raw reads and writes go past the tier, lest it hide its faults from itself."""

import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiers.checksum import crc32c
from tiers.errors import CorruptBlockError
from tiers.tier import ALIGNMENT, SupportsChecksum, SupportsDirectIO, SupportsView, Tier

NUM_SLOTS = 5
BLOCK_NBYTES = 2 * ALIGNMENT

SLOTS = st.integers(0, NUM_SLOTS - 1)
LENGTHS = st.sampled_from([1, 2, 511, ALIGNMENT - 1, ALIGNMENT, ALIGNMENT + 1, BLOCK_NBYTES - 1, BLOCK_NBYTES])
SEEDS = st.integers(0, 255)
FEW = settings(max_examples=25, deadline=None)


def pattern(seed: int, nbytes: int = BLOCK_NBYTES) -> bytes:
    """Bytes that differ from seed to seed and from page to page."""
    return bytes((seed + i + i // 251) % 256 for i in range(nbytes))


def aligned(data: bytes) -> memoryview:
    """A copy of ``data`` that O_DIRECT takes."""
    buffer = memoryview(mmap.mmap(-1, len(data)))
    buffer[:] = data
    return buffer


def raw_get(tier: SupportsDirectIO, slot: int) -> bytes:
    """The bytes of a slot, read from its files."""
    data = b""
    for extent in tier.extents(slot):
        buffer = aligned(bytes(extent.nbytes))
        assert os.preadv(extent.fd, [buffer], extent.offset) >= extent.required
        data += bytes(buffer)
    return data


def raw_put(tier: SupportsDirectIO, slot: int, data: bytes) -> None:
    """Change the bytes of a slot in its files, behind the back of the tier."""
    for extent in tier.extents(slot):
        assert os.pwritev(extent.fd, [aligned(data[: extent.nbytes])], extent.offset) == extent.nbytes
        data = data[extent.nbytes :]


class TierContract(ABC):
    """Inherit, name the class ``Test...`` and supply ``make``, ``get`` and ``put``."""

    @abstractmethod
    def make(self, directory: Path) -> Tier:
        """A tier of NUM_SLOTS slots of BLOCK_NBYTES bytes; ``directory`` is there, empty and its own."""

    @abstractmethod
    def get(self, tier: Tier, slot: int) -> bytes:
        """The whole slot, not by way of ``tier.read``."""

    @abstractmethod
    def put(self, tier: Tier, slot: int, data: bytes) -> None:
        """Fill a whole slot, not by way of ``tier.write``."""

    @pytest.fixture
    def tier(self, tmp_path: Path) -> Iterator[Tier]:
        tier = self.make(tmp_path)
        yield tier
        tier.close()

    def test_is_as_large_as_asked(self, tier: Tier) -> None:
        assert (tier.num_slots, tier.block_nbytes) == (NUM_SLOTS, BLOCK_NBYTES)
        assert tier.name

    def test_writes_the_start_of_a_slot_and_no_other(self, tier: Tier) -> None:
        neighbours = {slot: pattern(100 + slot) for slot in range(NUM_SLOTS)}
        for slot, data in neighbours.items():
            self.put(tier, slot, data)

        @FEW
        @given(slot=SLOTS, length=LENGTHS, seed=SEEDS)
        def check(slot: int, length: int, seed: int) -> None:
            data = pattern(seed, length)
            tier.write(slot, memoryview(data))
            neighbours.pop(slot, None)
            assert self.get(tier, slot)[:length] == data
            assert all(self.get(tier, other) == data for other, data in neighbours.items())

        check()

    def test_reads_the_start_of_a_slot(self, tier: Tier) -> None:
        @FEW
        @given(slot=SLOTS, length=LENGTHS, seed=SEEDS)
        def check(slot: int, length: int, seed: int) -> None:
            self.put(tier, slot, pattern(seed))
            buffer = bytearray(length)
            tier.read(slot, memoryview(buffer))
            assert buffer == pattern(seed, length)

        check()

    def test_remembers_like_a_dict(self, tier: Tier) -> None:
        """Writes of any length to any slot, each followed by a read of all that was written so far."""
        model: dict[int, bytes] = {}

        @FEW
        @given(slot=SLOTS, length=LENGTHS, seed=SEEDS)
        def check(slot: int, length: int, seed: int) -> None:
            model[slot] = pattern(seed, length)
            tier.write(slot, memoryview(model[slot]))
            for written, expected in model.items():
                buffer = bytearray(len(expected))
                tier.read(written, memoryview(buffer))
                assert buffer == expected

        check()

    def test_views_are_the_slots_themselves(self, tier: Tier) -> None:
        if not isinstance(tier, SupportsView):
            pytest.skip("not in this address space")
        import numpy as np

        for slot in range(NUM_SLOTS):
            view = tier.view(slot)
            assert view.nbytes == BLOCK_NBYTES
            assert np.frombuffer(view, np.uint8).ctypes.data % ALIGNMENT == 0
            view[:] = pattern(slot)
        assert [self.get(tier, slot) for slot in range(NUM_SLOTS)] == [pattern(slot) for slot in range(NUM_SLOTS)]

    def test_extents_are_aligned_and_disjoint(self, tier: Tier) -> None:
        if not isinstance(tier, SupportsDirectIO):
            pytest.skip("not in files")
        pages: set[tuple[int, int]] = set()
        for slot in range(NUM_SLOTS):
            extents = tier.extents(slot)
            assert sum(extent.nbytes for extent in extents) == BLOCK_NBYTES
            for extent in extents:
                assert 0 <= extent.required <= extent.nbytes
                assert extent.offset % ALIGNMENT == extent.nbytes % ALIGNMENT == 0
                mine = {(extent.fd, extent.offset + i) for i in range(0, extent.nbytes, ALIGNMENT)}
                assert not mine & pages
                pages |= mine

    def test_opens_queues_of_the_depth_asked_for(self, tier: Tier) -> None:
        if not isinstance(tier, SupportsDirectIO):
            pytest.skip("not in files")
        for depth in (1, 4):
            queue = tier.open_queue(depth)
            assert (queue.depth, queue.in_flight) == (depth, 0)
            queue.close()

    def test_notices_a_wrong_bit(self, tier: Tier) -> None:
        if not isinstance(tier, SupportsChecksum):
            pytest.skip("keeps no checksums")
        block = bytearray(pattern(1))
        tier.seal(2, crc32c(memoryview(block)))
        tier.verify(2, crc32c(memoryview(block)))
        block[4711] ^= 64
        with pytest.raises(CorruptBlockError, match=f"tier '{tier.name}'") as caught:
            tier.verify(2, crc32c(memoryview(block)))
        assert caught.value.expected != caught.value.found

    def test_closes_twice(self, tier: Tier) -> None:
        tier.close()
        tier.close()
