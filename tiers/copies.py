"""Which ranges of one memory go where in another. Pure, and by numpy: a link to a device has 150 ns for a block."""

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
    """Join blocks that are neighbours in both memories and cut what is larger than ``max_nbytes``.

    A chunk has at most ``max_nbytes``. A block may be smaller than its slot in the target; ValueError if it is larger,
    IndexError if there is no such slot.
    """
    if not moves:
        return []
    slots = np.fromiter(chain.from_iterable(moves), np.int64, 2 * len(moves)).reshape(-1, 2)
    starts, sizes = source.ranges_of(slots[:, 0])
    places, room = target.ranges_of(slots[:, 1])
    if (sizes > room).any():
        index = int((sizes > room).argmax())
        raise ValueError(f"{sizes[index]} bytes do not fit in slot {slots[index, 1]}")
    runs = np.stack([starts, places, sizes], axis=1)
    runs = _cut(_join(runs[np.argsort(starts, kind="stable")]), max_nbytes)
    return [CopyChunk(part, int(part[:, 2].sum())) for part in _pack(runs, max_nbytes)]


def join_neighbours(runs: Sequence[tuple[int, int, int]]) -> Runs:
    """Runs as an array, neighbours in both memories joined."""
    return _join(np.asarray(runs, np.int64).reshape(-1, 3))


def _join(runs: Runs) -> Runs:
    ends = runs[:-1, :2] + runs[:-1, 2:]
    is_first = np.concatenate(([True], (runs[1:, :2] != ends).any(axis=1)))
    firsts = np.flatnonzero(is_first)
    joined = runs[firsts]
    joined[:, 2] = np.add.reduceat(runs[:, 2], firsts)
    return joined


def _cut(runs: Runs, max_nbytes: int) -> Runs:
    counts = np.maximum(1, -(-runs[:, 2] // max_nbytes))
    if (counts == 1).all():
        return runs
    pieces = np.repeat(runs, counts, axis=0)
    number = np.arange(len(pieces)) - np.repeat(np.cumsum(counts) - counts, counts)
    pieces[:, :2] += (number * max_nbytes)[:, None]
    pieces[:, 2] = np.minimum(max_nbytes, pieces[:, 2] - number * max_nbytes)
    return pieces


def _pack(runs: Runs, max_nbytes: int) -> list[Runs]:
    ends = np.cumsum(runs[:, 2])
    cuts, done = [], 0
    while done < ends[-1]:
        # As many as fit; each alone does.
        cuts.append(int(np.searchsorted(ends, done + max_nbytes, side="right")))
        done = int(ends[cuts[-1] - 1])
    return np.split(runs, cuts[:-1]) if cuts else [runs]
