"""Tiers in this process's memory: the device arena of a CPU, and host RAM.

The CUDA device tier will stand beside this file; it shares the interface, not the code.
"""

import mmap
from contextlib import suppress

from tiers.errors import TierError
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

    Raises TierError if the machine does not have the memory.
    """

    def __init__(self, name: str, num_slots: int, block_nbytes: int) -> None:
        self.name = name
        self.num_slots = num_slots
        self.block_nbytes = block_nbytes
        self._map = map_memory(name, num_slots * block_nbytes)
        self.buffer = memoryview(self._map)
        """The whole arena, slot after slot: tensors are views of it."""

    def view(self, slot: int) -> memoryview:
        start = slot * self.block_nbytes
        return self.buffer[start : start + self.block_nbytes]

    def read(self, slot: int, buffer: memoryview) -> None:
        buffer[:] = self.view(slot)[: buffer.nbytes]

    def write(self, slot: int, buffer: memoryview) -> None:
        self.view(slot)[: buffer.nbytes] = buffer

    def close(self) -> None:
        try:
            self.buffer.release()
            self._map.close()
        except BufferError:
            # A tensor still looks into the arena; the mapping goes with the last of them.
            return
