"""The arena of KV blocks and the manager above it, shared by all layers and rows of all caches of a model."""

from torch import Tensor

from offload.arenas import Arena, arena_bytes
from offload.kv.layout import KVLayout
from prefetch.block_store import LOOKAHEAD_LAYERS, BlockStore, Interval, Span
from prefetch.selection import KVSelector
from tiers.manager import TieredMemoryManager

__all__ = ["Interval", "KVStore", "Span"]


class KVStore(BlockStore):
    """Blocks of tokens by key; the way from a key to tensors that attention can read. See BlockStore."""

    def __init__(
        self,
        layout: KVLayout,
        arena: Arena,
        manager: TieredMemoryManager,
        *,
        num_layers: int,
        lookahead: int = LOOKAHEAD_LAYERS,
        selector: KVSelector | None = None,
    ) -> None:
        super().__init__(manager, layout.block_tokens, num_layers=num_layers, lookahead=lookahead, selector=selector)
        self.layout = layout
        self.rows = layout.rows(arena_bytes(arena), arena.num_slots)
        self.keys, self.values = layout.split(self.rows)
        self.flaws: set[str] = set()
        """What was slower than it could be where blocks were attended to, and why; one line each."""

    def write(self, slot: int, offset: int, keys: Tensor, values: Tensor) -> None:
        """Put tokens ([tokens, heads, dim]) into open blocks side by side, from token ``offset`` of the first on."""
        start = slot * self.block_tokens + offset
        stop = start + keys.shape[0]
        self.keys[start:stop] = keys
        self.values[start:stop] = values

    def count_visit(self, begin: int, end: int) -> None:
        """Tokens ``begin .. end - 1`` of a row are attended to where they lie: their blocks are hits."""
        self.manager.stats.hits += (end - 1) // self.block_tokens - begin // self.block_tokens + 1

    def copy(self, source_slot: int, slot: int, offset: int, start: int, stop: int) -> None:
        """See BlockStore."""
        first = source_slot * self.block_tokens
        some = slice(first + start, first + stop)
        self.write(slot, offset, self.keys[some], self.values[some])
