"""The block table of one row of a batch in one layer: which blocks hold its tokens, in order."""

from collections.abc import Sequence

from torch import Tensor

from offload.kv.store import KVStore, Span
from tiers.block import KVBlockKey
from tiers.errors import TierFullError


class BlockTable:
    """Appends tokens, shares full blocks with other rows, rolls back.

    All blocks but the last are full and never change, so that rows may share them and copies below stay valid. The last
    one is *open* while it is not full: on the device, pinned, and owned by this row alone.
    """

    def __init__(self, store: KVStore, layer: int, home: int | None = None) -> None:
        self._store = store
        self._layer = layer
        self._home = home
        self._sequence = store.new_sequence()
        self._next_index = 0
        self._open_slot: int | None = None
        self.blocks: list[KVBlockKey] = []
        self.num_dropped = 0
        """Blocks at the front that slid out of the window and are gone."""
        self.num_tokens = 0

    def append(self, keys: Tensor, values: Tensor) -> None:
        """Add tokens: keys [tokens, heads, dim] and values alike. Raises TierFullError if no tier has room."""
        size = self._store.layout.block_tokens
        position, end = 0, keys.shape[0]
        while position < end:
            offset = self.num_tokens % size
            if offset == 0:
                slots, blocks = self._open_blocks(-(-(end - position) // size))
            else:
                assert self._open_slot is not None
                slots, blocks = [self._open_slot], [self.blocks[-1]]
            for slot in slots:
                taken = min(size - offset, end - position)
                stop = position + taken
                self._store.write(slot, offset, keys[position:stop], values[position:stop])
                position = stop
                self.num_tokens += taken
                offset = 0
            is_full = self.num_tokens % size == 0
            self._open_slot = None if is_full else slots[-1]
            self._store.manager.complete_store(blocks if is_full else blocks[:-1])

    def spans(self, begin: int, end: int) -> tuple[list[KVBlockKey], list[Span]]:
        """The blocks that hold the tokens at positions ``begin .. end - 1`` and, for each, which part of it."""
        size = self._store.layout.block_tokens
        first, last = begin // size, -(-end // size)
        indices = range(first, last)
        keys = self.blocks[first - self.num_dropped : last - self.num_dropped]
        spans = [Span(max(begin - i * size, 0), min(end - i * size, size), max(begin, i * size)) for i in indices]
        return keys, spans

    def fork(self) -> "BlockTable":
        """A row with the same tokens: full blocks are shared, the open one is copied."""
        other = BlockTable(self._store, self._layer)
        is_open = self._open_slot is not None
        other.blocks = self.blocks[:-1] if is_open else self.blocks[:]
        self._store.manager.share(other.blocks)
        other.num_dropped, other._next_index = self.num_dropped, self._next_index
        size = self._store.layout.block_tokens
        other.num_tokens = self.num_tokens // size * size
        if self._open_slot is not None:
            other._next_index -= 1
            start = self._open_slot * size
            tail = slice(start, start + self.num_tokens % size)
            other.append(self._store.keys[tail], self._store.values[tail])
        return other

    def drop_before(self, position: int) -> None:
        """Forget the blocks whose tokens all lie before ``position``: a sliding window has passed them."""
        count = min(position // self._store.layout.block_tokens, self._next_index) - self.num_dropped
        if count > 0:
            self._store.manager.discard(self.blocks[:count])
            del self.blocks[:count]
            self.num_dropped += count

    def crop(self, num_tokens: int) -> None:
        """Keep the first ``num_tokens`` tokens. Raises ValueError if a sliding window has dropped some of them."""
        size = self._store.layout.block_tokens
        if num_tokens >= self.num_tokens:
            return
        if num_tokens < self.num_dropped * size:
            raise ValueError(f"cannot roll back to {num_tokens} tokens: the sliding window has dropped some of them")
        kept = -(-num_tokens // size) - self.num_dropped
        was_open = self._open_slot if kept == len(self.blocks) else None
        self._store.manager.discard(self.blocks[kept:])
        del self.blocks[kept:]
        self.num_tokens = num_tokens
        self._next_index = self.num_dropped + kept
        self._open_slot = None
        if num_tokens % size:
            self._open_slot = was_open if was_open is not None else self._reopen_last()

    def clear(self) -> None:
        """Give every block back."""
        self._store.manager.discard(self.blocks)
        self.blocks = []
        self.num_dropped = self.num_tokens = self._next_index = 0
        self._open_slot = None

    def full_blocks(self) -> Sequence[KVBlockKey]:
        """The blocks that may be on a lower tier."""
        return self.blocks if self._open_slot is None else self.blocks[:-1]

    def _open_blocks(self, wanted: int) -> tuple[list[int], list[KVBlockKey]]:
        """Open new blocks at the end: as many as wanted, or as many as the device can take at once."""
        while True:
            keys = [KVBlockKey(self._sequence, self._layer, self._next_index + i) for i in range(wanted)]
            prefer = None if self._home is None else self._home + self._next_index
            try:
                slots = self._store.manager.prepare_store(keys, prefer)
            except TierFullError:
                if wanted == 1:
                    raise
                wanted //= 2
                continue
            self._next_index += wanted
            self.blocks += keys
            return slots, keys

    def _reopen_last(self) -> int:
        key = self.blocks[-1]
        if not self._store.manager.is_shared(key):
            return self._store.manager.reopen(key)
        # Another row still reads it: go on in a copy of our own.
        size = self._store.layout.block_tokens
        filled = self.num_tokens % size
        self.blocks.pop()
        self._next_index -= 1
        self._sequence = self._store.new_sequence()
        self.num_tokens -= filled
        self._store.manager.prepare_load([key])
        (slot,) = self._store.manager.complete_load([key])
        tail = slice(slot * size, slot * size + filled)
        self.append(self._store.keys[tail], self._store.values[tail])
        self._store.manager.release([key])
        self._store.manager.discard([key])
        assert self._open_slot is not None
        return self._open_slot
