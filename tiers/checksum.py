"""CRC32C of blocks, also of blocks that are seen piece by piece and in any order."""

from collections.abc import Iterator
from functools import cache

import google_crc32c
import numpy as np

UNSEALED = 1 << 32
"""Stands for the checksum of a block that is only just being written: no CRC32C is as large, so nothing matches it."""

_POLYNOMIAL = 0x82F63B78  # Castagnoli's, lowest power in the highest bit, as in all that follows
_ONE = 1 << 31


def crc32c(block: memoryview, crc: int = 0) -> int:
    """CRC32C of bytes that follow others whose checksum is ``crc``.

    numpy lends the bytes without a copy, which the library refuses to do for a memoryview.
    """
    return int(google_crc32c.extend(crc, np.frombuffer(block, np.uint8)))


def combine(first: int, second: int, second_nbytes: int) -> int:
    """CRC32C of two ranges, one after the other, from theirs: the first is multiplied by x^(8 second_nbytes)."""
    return _multiply(_power(8 * second_nbytes), first) ^ second


class BlockChecksums:
    """Checksums of the pieces of some blocks, put together when all are there."""

    def __init__(self) -> None:
        self._pieces: dict[tuple[int, int], list[tuple[int, int, int]]] = {}

    def add(self, block: tuple[int, int], position: int, piece: memoryview) -> None:
        """Note the bytes that lie ``position`` bytes after the start of a block, which bears the slots of its move."""
        self._pieces.setdefault(block, []).append((position, piece.nbytes, crc32c(piece)))

    def totals(self) -> Iterator[tuple[tuple[int, int], int]]:
        """Every block and the checksum of its pieces, which leave no gaps."""
        for block, pieces in self._pieces.items():
            total = pieces[0][2]
            if len(pieces) > 1:
                pieces.sort()
                total = pieces[0][2]
                for _, nbytes, crc in pieces[1:]:
                    total = combine(total, crc, nbytes)
            yield block, total


def _multiply(a: int, b: int) -> int:
    """The product of two polynomials over GF(2), modulo Castagnoli's."""
    product = 0
    while a:
        if a & _ONE:
            product ^= b
        a = a << 1 & 0xFFFFFFFF
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product


@cache
def _power(exponent: int) -> int:
    """x^exponent modulo Castagnoli's polynomial, by squaring. Blocks are cut to few different sizes."""
    result, square = _ONE, _ONE >> 1
    while exponent:
        if exponent & 1:
            result = _multiply(result, square)
        square = _multiply(square, square)
        exponent >>= 1
    return result
