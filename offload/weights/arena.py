"""Memory for the weights that stay: every group at its exact size, none of it ever moved."""

from collections.abc import Sequence

from tiers.errors import TierError
from tiers.memory_tier import map_memory
from tiers.tier import Tier, align_up


class ResidentArena(Tier):
    """A tier whose slots have sizes of their own. Filled once, through the TransferEngine, then only looked at."""

    def __init__(self, name: str, sizes: Sequence[int]) -> None:
        self.name = name
        self.num_slots = len(sizes)
        self.block_nbytes = max(sizes, default=0)
        self._starts = [0]
        for nbytes in sizes:
            self._starts.append(self._starts[-1] + align_up(nbytes))
        self.buffer = memoryview(map_memory(name, self._starts[-1]))

    @property
    def nbytes(self) -> int:
        return self._starts[-1]

    def view(self, slot: int) -> memoryview:
        return self.buffer[self._starts[slot] : self._starts[slot + 1]]

    def read(self, slot: int, buffer: memoryview) -> None:
        buffer[:] = self.view(slot)[: buffer.nbytes]

    def write(self, slot: int, buffer: memoryview) -> None:
        if buffer.nbytes > len(self.view(slot)):
            raise TierError(f"{buffer.nbytes} bytes do not fit in slot {slot}", tier=self.name)
        self.view(slot)[: buffer.nbytes] = buffer

    def close(self) -> None:
        """Nothing to do: the memory goes with the last tensor that looks into it."""
