"""Which ranges of one memory go where in another. Pure, and by numpy: a link to a device has 150 ns for a block."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from tiers.chunks import Move
from tiers.slots import SlotLayout

Runs = NDArray[np.int64]
"""[number of runs, 3]: first byte in the source, first byte in the target, number of bytes."""


@dataclass(frozen=True, slots=True)
class CopyChunk:
    """Ranges that are copied in one go."""

    runs: Runs
    nbytes: int


def plan_copies(source: SlotLayout, target: SlotLayout, moves: Sequence[Move], max_nbytes: int) -> list[CopyChunk]:
    """Join blocks that follow each other in both memories and cut what is larger than ``max_nbytes``.

    A chunk has at most ``max_nbytes``. A block may be smaller than its slot in the target; ValueError if it is larger,
    IndexError if there is no such slot.
    """
    if not moves:
        return []
    slots = np.fromiter(chain.from_iterable(moves), np.int64, 2 * len(moves))
    starts, sizes = source.ranges_of(slots[::2])
    places, room = target.ranges_of(slots[1::2])
    too_large = np.flatnonzero(sizes > room)
    if len(too_large):
        index = int(too_large[0])
        raise ValueError(f"{sizes[index]} bytes do not fit in slot {moves[index].target_slot}")
    return _pack(_cut(_join(np.stack([starts, places, sizes], axis=1)), max_nbytes), max_nbytes)


def join_neighbours(runs: Sequence[tuple[int, int, int]]) -> Runs:
    """Runs as an array, neighbours in both memories joined."""
    return _join(np.asarray(runs, np.int64).reshape(-1, 3))


def _join(runs: Runs) -> Runs:
    starts, places, sizes = runs.T
    is_next = (starts[1:] == starts[:-1] + sizes[:-1]) & (places[1:] == places[:-1] + sizes[:-1])
    if not is_next.any():
        return runs
    firsts = np.flatnonzero(np.concatenate(([True], ~is_next)))
    joined = runs[firsts]
    joined[:, 2] = np.add.reduceat(sizes, firsts)
    return joined


def _cut(runs: Runs, max_nbytes: int) -> Runs:
    counts = -(-runs[:, 2] // max_nbytes)
    if counts.max() <= 1:
        return runs
    pieces = np.repeat(runs, counts, axis=0)
    number = np.arange(len(pieces)) - np.repeat(np.cumsum(counts) - counts, counts)
    pieces[:, :2] += (number * max_nbytes)[:, None]
    pieces[:, 2] = np.minimum(max_nbytes, pieces[:, 2] - number * max_nbytes)
    return pieces


def _pack(runs: Runs, max_nbytes: int) -> list[CopyChunk]:
    ends = np.cumsum(runs[:, 2]).tolist()
    chunks = []
    first = done = 0
    while first < len(ends):
        # As many as fit; each alone does.
        last = bisect_right(ends, done + max_nbytes, lo=first)
        chunks.append(CopyChunk(runs[first:last], ends[last - 1] - done))
        first, done = last, ends[last - 1]
    return chunks
