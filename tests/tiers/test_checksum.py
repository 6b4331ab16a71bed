"""Checksums of blocks that are seen piece by piece."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from tiers.checksum import UNSEALED, BlockChecksums, combine, crc32c


def test_is_the_checksum_that_the_standards_have() -> None:
    assert crc32c(memoryview(b"123456789")) == 0xE3069283
    assert UNSEALED > 0xFFFFFFFF


@given(first=st.binary(max_size=300), second=st.binary(max_size=300))
def test_two_ranges_have_the_checksum_of_both(first: bytes, second: bytes) -> None:
    combined = combine(crc32c(memoryview(first)), crc32c(memoryview(second)), len(second))
    assert combined == crc32c(memoryview(first + second)) == crc32c(memoryview(second), crc32c(memoryview(first)))


def test_pieces_may_come_in_any_order() -> None:
    blocks = {(0, 3): Random(1).randbytes(10_000), (7, 1): Random(2).randbytes(4096)}
    checksums = BlockChecksums()
    for position in (4096, 8192, 0):
        checksums.add((0, 3), position, memoryview(blocks[0, 3])[position : position + 4096])
    checksums.add((7, 1), 0, memoryview(blocks[7, 1]))
    assert dict(checksums.totals()) == {block: crc32c(memoryview(data)) for block, data in blocks.items()}
