"""Tiers in this process's memory: the device arena of a CPU, and host RAM."""

import mmap
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

from tiers.errors import TierError
from tiers.slots import SlotLayout, even_slots, slots_of_sizes
from tiers.tier import Tier

_HUGE_PAGE_NBYTES = 2 * 2**20


def map_memory(tier: str, nbytes: int) -> mmap.mmap:
    """Anonymous memory, page-aligned, that costs nothing until it is touched. Raises TierError if there is not so much.

    In huge pages where the kernel has them: matrices are read faster with fewer of them to look up, and a drive that
    writes into memory needs fewer of them pinned.
    """
    try:
        memory = mmap.mmap(-1, max(1, nbytes), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        message = f"tier '{tier}': {nbytes:,} bytes of memory: {error.strerror}; lower its budget"
        raise TierError(message, tier=tier) from None
    if nbytes >= _HUGE_PAGE_NBYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel built without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


class MemoryTier(Tier):
    """One anonymous mapping, cut into page-aligned slots. Pages cost memory only once they are touched.

    ``layout`` says where the slots lie if they are not all of one size. Raises TierError if the machine does not have
    the memory.
    """

    def __init__(self, name: str, num_slots: int, block_nbytes: int, layout: SlotLayout | None = None) -> None:
        self.name = name
        self.num_slots = num_slots
        self.block_nbytes = block_nbytes
        self._layout = layout or even_slots(num_slots, block_nbytes)
        self._map = map_memory(name, self._layout.nbytes)
        self.buffer = memoryview(self._map)
        """The whole arena, slot after slot: tensors are views of it."""

    @classmethod
    def of_sizes(cls, name: str, sizes: Sequence[int]) -> Self:
        """A tier whose slots have sizes of their own, in whole pages; ``block_nbytes`` is the largest."""
        return cls(name, len(sizes), max(sizes, default=0), slots_of_sizes(sizes))

    @property
    def nbytes(self) -> int:
        """Bytes of all slots together."""
        return self._layout.nbytes

    def view(self, slot: int) -> memoryview:
        starts = self._layout.starts
        return self.buffer[starts[slot] : starts[slot + 1]]

    def layout(self) -> SlotLayout:
        return self._layout

    def flat(self) -> memoryview:
        return self.buffer

    def read(self, slot: int, buffer: memoryview) -> None:
        buffer[:] = self.view(slot)[: buffer.nbytes]

    def write(self, slot: int, buffer: memoryview) -> None:
        view = self.view(slot)
        if buffer.nbytes > view.nbytes:
            raise TierError(f"tier '{self.name}': {buffer.nbytes} bytes do not fit in slot {slot}", tier=self.name)
        view[: buffer.nbytes] = buffer

    def close(self) -> None:
        try:
            self.buffer.release()
            self._map.close()
        except BufferError:
            # A tensor still looks into the arena; the mapping goes with the last of them.
            return
