import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tiers.block import WeightGroupKey
from tiers.direct_file import DirectFile
from tiers.errors import ModelError, TierError, TransferError
from tiers.memory_tier import MemoryTier
from tiers.tier import ALIGNMENT, Extent, SupportsDirectIO
from tiers.transfer import Move, Priority, TransferEngine
from tiers.weight_tier import TensorSpec, WeightGroup, WeightTier

ROW = 100 * 4
FILE_NBYTES = 5 * ALIGNMENT + 1000
CONTENT = os.urandom(FILE_NBYTES)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "weights").write_bytes(CONTENT)
    return tmp_path / "weights"


@pytest.fixture
def tier(path: Path) -> Iterator[WeightTier]:
    """A layer in two ranges, the second of which runs past the end of the file, and two slices of a head."""
    file = DirectFile(path)
    layer = WeightGroup(
        WeightGroupKey("layers.0"),
        "layer",
        (TensorSpec("a", "F32", (64,), 16), TensorSpec("b", "F16", (3, 50), ALIGNMENT + 40)),
        2 * ALIGNMENT,
    )
    slices = [
        WeightGroup(WeightGroupKey(f"head.{i}"), "head", (TensorSpec("w", "F32", (rows, 100), 8),), ALIGNMENT, first)
        for i, (first, rows) in enumerate([(0, 10), (10, 5)])
    ]
    extents = [
        (Extent(file.fd, 0, ALIGNMENT, ALIGNMENT), Extent(file.fd, 5 * ALIGNMENT, ALIGNMENT, 1000)),
        (Extent(file.fd, ALIGNMENT, ALIGNMENT, ALIGNMENT),),
        (Extent(file.fd, 3 * ALIGNMENT, ALIGNMENT, ALIGNMENT),),
    ]
    tier = WeightTier(path, [layer, *slices], extents, [file])
    yield tier
    tier.close()


LAYER_BYTES = CONTENT[:ALIGNMENT] + CONTENT[5 * ALIGNMENT :]


def test_shape(tier: WeightTier) -> None:
    assert (tier.num_slots, tier.block_nbytes, tier.name) == (3, 2 * ALIGNMENT, "nvme")
    assert tier.slot_of(WeightGroupKey("head.1")) == 2
    assert tier.groups[0].tensors[1].nbytes == 300
    assert isinstance(tier, SupportsDirectIO)


def test_reads_an_aligned_block(tier: WeightTier) -> None:
    block = memoryview(mmap.mmap(-1, 2 * ALIGNMENT))
    tier.read(0, block)
    assert bytes(block[: len(LAYER_BYTES)]) == LAYER_BYTES


@pytest.mark.parametrize("nbytes", [1, 4095, 4097, ALIGNMENT + 999, ALIGNMENT + 1000])
def test_reads_into_any_buffer(tier: WeightTier, nbytes: int) -> None:
    """Neither the address nor the length suits O_DIRECT."""
    block = memoryview(bytearray(nbytes + 1))[1:]
    tier.read(0, block)
    assert bytes(block) == LAYER_BYTES[:nbytes]


def test_bytes_beyond_the_group_stay(tier: WeightTier) -> None:
    block = memoryview(mmap.mmap(-1, 2 * ALIGNMENT))
    block[ALIGNMENT:] = b"x" * ALIGNMENT
    tier.read(1, block)
    assert bytes(block) == CONTENT[ALIGNMENT : 2 * ALIGNMENT] + b"x" * ALIGNMENT


@pytest.mark.parametrize("row", range(15))
def test_rows_are_read_one_by_one(tier: WeightTier, path: Path, row: int) -> None:
    extent, inside = tier.row_extent("w", row)
    assert extent.offset % ALIGNMENT == extent.nbytes % ALIGNMENT == 0
    found = path.read_bytes()[extent.offset :][: extent.required][inside : inside + ROW]
    start = ALIGNMENT + 8 + row * ROW if row < 10 else 3 * ALIGNMENT + 8 + (row - 10) * ROW
    assert found == CONTENT[start : start + ROW]


def test_row_in_the_second_range_of_a_group(tier: WeightTier) -> None:
    extent, inside = tier.row_extent("b", 2)
    assert (extent.offset, extent.nbytes, extent.required, inside) == (5 * ALIGNMENT, ALIGNMENT, 1000, 240)


@pytest.mark.parametrize("row", [-1, 15])
def test_no_such_row(tier: WeightTier, row: int) -> None:
    with pytest.raises(IndexError, match=f"w has no row {row}"):
        tier.row_extent("w", row)


def test_the_engine_moves_groups(tier: WeightTier) -> None:
    memory = MemoryTier("device", 1, tier.block_nbytes)
    engine = TransferEngine()
    engine.wait(engine.submit(tier, memory, [Move(0, 0)], Priority.DEMAND))
    assert bytes(memory.view(0)[: len(LAYER_BYTES)]) == LAYER_BYTES
    engine.close()
    memory.close()


def test_is_read_only(tier: WeightTier) -> None:
    with pytest.raises(TierError, match="read only"):
        tier.write(0, memoryview(bytes(10)))


def test_a_file_that_shrinks_is_an_error(tier: WeightTier, path: Path) -> None:
    os.truncate(path, ALIGNMENT + 10)
    with pytest.raises(TransferError, match="4,086 bytes short"):
        tier.read(1, memoryview(mmap.mmap(-1, ALIGNMENT)))


def test_close_twice_and_read_after(tier: WeightTier) -> None:
    tier.close()
    tier.close()
    with pytest.raises(TierError, match="after close"):
        tier.read(0, memoryview(bytearray(10)))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        DirectFile(tmp_path / "none")


def test_file_system_without_o_direct() -> None:
    """procfs takes no O_DIRECT: the file is read all the same, and the tier says so."""
    file = DirectFile(Path("/proc/self/stat"))
    assert not file.direct
    buffer = bytearray(10)
    file.read_into(0, memoryview(buffer), 10, tier="nvme")
    assert buffer.startswith(str(os.getpid()).encode())
    file.close()
