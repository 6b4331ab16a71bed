"""Checksums of pages, chained: that of a page goes on from that of the page before it in the same table and head.

A page is so checked by itself (its record holds both numbers), and pages that follow each other are checked in one call
for all of them: per call, checking costs more than reading. A page in the wrong place does not pass either.
"""

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from tiers.csd.layout import Bytes

Checksums = NDArray[np.uint32]

_PIECE_NBYTES = 8192


def chained(data: Bytes, seeds: Checksums) -> tuple[Checksums, Checksums]:
    """CRC32C of ``data`` [heads, n, page_nbytes], each head going on from its seed: seeds and checksums [heads, n]."""
    heads, n, _ = data.shape
    chain = np.empty((heads, n + 1), np.uint32)
    extend = google_crc32c.extend
    for head in range(heads):
        crc = int(seeds[head])
        chain[head, 0] = crc
        for index, row in enumerate(data[head], start=1):
            crc = extend(crc, row)
            chain[head, index] = crc
    return chain[:, :-1], chain[:, 1:]


def is_sound(data: Bytes, seeds: Checksums, checksums: Checksums) -> bool:
    """Whether pages [n, page_nbytes] all bear their checksums."""
    n = len(data)
    if not n:
        return True
    # Pages that are no neighbours start anew.
    is_cut = seeds[1:] != checksums[:-1]
    cuts = (np.flatnonzero(is_cut) + 1).tolist() if is_cut.any() else []
    start = 0
    for stop in (*cuts, n):
        if _extended(int(seeds[start]), data[start:stop].reshape(-1)) != checksums[stop - 1]:
            return False
        start = stop
    return True


def which_are_sound(data: Bytes, seeds: Checksums, checksums: Checksums) -> NDArray[np.bool_]:
    """[n]: page by page."""
    extend = google_crc32c.extend
    found = (extend(int(seed), row) for seed, row in zip(seeds, data, strict=True))
    return np.asarray(np.fromiter(found, np.uint32, len(data)) == checksums)


def _extended(crc: int, data: Bytes) -> int:
    """CRC32C in pieces that stay in the processor's first cache: twice the speed of one call for all of them."""
    extend = google_crc32c.extend
    whole = data.size // _PIECE_NBYTES * _PIECE_NBYTES
    for piece in data[:whole].reshape(-1, _PIECE_NBYTES):  # rows of an array come faster than slices of it
        crc = extend(crc, piece)
    return int(extend(crc, data[whole:]))
