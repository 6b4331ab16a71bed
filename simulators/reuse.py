"""How far apart the uses of a block are, and how old the conversations are that use them."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from simulators.kv_trace.base import Request

Numbers = NDArray[np.int64]

COLD = -1
"""The distance of a first use: there is none before it."""


def reuse_distances(blocks: Sequence[int]) -> Numbers:
    """Of every access, how many different other blocks were asked for since its block was last: its stack distance.

    LRU with more slots than that finds it (Mattson et al., 1970). ``COLD`` of a first use. Takes O(n log n).
    """
    before = _last_uses(np.asarray(blocks, np.int64))
    # Of the accesses before one at i whose block was last used at p, those whose own last use was before p count: up to
    # and with p that are all p + 1, behind it each different block once, where it is first seen after p.
    distances = _smaller_before(before + 1) - (before + 1)
    distances[before < 0] = COLD
    return distances


def session_ages(requests: Iterable[Request]) -> list[float]:
    """Of every request, the seconds since the first one of its conversation came; 0 of that one.

    A request goes on with the conversation of an earlier one whose prompt it holds, up to a last block that may have
    been short.
    """
    began: dict[int, float] = {}
    ages = []
    for request in requests:
        known = next((began[block] for block in reversed(request.blocks) if block in began), request.arrival_s)
        began.update(dict.fromkeys(request.blocks[-2:], known))
        ages.append(request.arrival_s - known)
    return ages


def _last_uses(blocks: Numbers) -> Numbers:
    """The place of the access before to the same block, or -1."""
    order = np.argsort(blocks, kind="stable")
    is_same = blocks[order[1:]] == blocks[order[:-1]]
    before = np.full(len(blocks), -1, np.int64)
    before[order[1:][is_same]] = order[:-1][is_same]
    return before


def _smaller_before(values: Numbers) -> Numbers:
    """Of every value, none negative, how many smaller ones stand before it.

    Values are parted bit by bit, the highest first, and keep their order within each part: where two part, the one with
    a 0 is smaller.
    """
    counts = np.zeros(len(values), np.int64)
    order, starts = np.arange(len(values)), np.zeros(len(values), np.int64)
    for bit in reversed(range(int(values.max(initial=0)).bit_length())):
        is_one = (values[order] >> bit & 1).astype(bool)
        zeros = np.concatenate([[0], np.cumsum(~is_one)])
        zeros_here = zeros[:-1] - zeros[starts]
        counts[order[is_one]] += zeros_here[is_one]
        ends = np.searchsorted(starts, starts, side="right")
        middles = starts + zeros[ends] - zeros[starts]
        ones_here = np.arange(len(order)) - starts - zeros_here
        places = np.where(is_one, middles + ones_here, starts + zeros_here)
        next_order, next_starts = np.empty_like(order), np.empty_like(starts)
        next_order[places], next_starts[places] = order, np.where(is_one, middles, starts)
        order, starts = next_order, next_starts
    return counts
