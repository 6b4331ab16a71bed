"""Where the slots of a tier lie in its one piece of memory. Pure arithmetic, for one slot or for many at once."""

from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 4096
"""Bytes. O_DIRECT and cuFile want file offsets, lengths and memory addresses that are multiples of it."""

Offsets = NDArray[np.int64]


def align_up(nbytes: int, alignment: int = ALIGNMENT) -> int:
    """The smallest multiple of ``alignment`` that is at least ``nbytes``."""
    return -(-nbytes // alignment) * alignment


def align_down(nbytes: int, alignment: int = ALIGNMENT) -> int:
    """The largest multiple of ``alignment`` that is at most ``nbytes``."""
    return nbytes // alignment * alignment


class SlotLayout:
    """Slot ``i`` is the bytes from ``starts[i]`` to ``starts[i + 1]``; ``nbytes`` is all of them together."""

    def __init__(self, starts: Sequence[int]) -> None:
        self.starts = starts
        self.num_slots = len(starts) - 1
        self.nbytes = starts[-1]

    def range_of(self, slot: int) -> range:
        """The bytes of one slot. IndexError if there is no such slot."""
        return range(self.starts[slot], self.starts[slot + 1])

    def ranges_of(self, slots: Offsets) -> tuple[Offsets, Offsets]:
        """First bytes and sizes of many slots. IndexError if one of them is not there."""
        if isinstance(self.starts, range) and slots.size:
            if slots.max() >= self.num_slots:
                raise IndexError(f"no slot {slots.max()}: there are {self.num_slots}")
            return slots * self.starts.step, np.broadcast_to(self.starts.step, slots.shape)
        starts = self._array[slots]
        return starts, self._array[slots + 1] - starts

    @cached_property
    def _array(self) -> Offsets:
        return np.asarray(self.starts, np.int64)


def even_slots(num_slots: int, block_nbytes: int) -> SlotLayout:
    """Slots of one size."""
    if block_nbytes == 0:
        return SlotLayout([0] * (num_slots + 1))
    return SlotLayout(range(0, (num_slots + 1) * block_nbytes, block_nbytes))


def slots_of_sizes(sizes: Sequence[int]) -> SlotLayout:
    """Slots of their own sizes, each rounded up to whole pages."""
    return SlotLayout([0, *accumulate(align_up(nbytes) for nbytes in sizes)])
