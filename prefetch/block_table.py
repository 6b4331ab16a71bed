"""The block table of one row of a batch in one layer: which blocks hold its tokens, in order. Names and slots only."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Generic, Self, TypeVar

from prefetch.block_store import BlockStore, Span
from tiers.block import KVBlockKey
from tiers.errors import TierFullError

Write = Callable[[int, int, int, int], None]
"""Told a slot, the token of it to begin with, and which tokens (from, up to) of those that are added go there."""


S = TypeVar("S", bound=BlockStore)


class TokenTable(Generic[S]):
    """Appends tokens, shares full blocks with other rows, rolls back.

    All blocks but the last are full and never change, so that rows may share them and copies below stay valid. The last
    one is *open* while it is not full: on the device, pinned, and owned by this row alone. What fails or is interrupted
    leaves fewer tokens than were asked for, in blocks that ``crop`` and ``clear`` can give back.

    ``home`` is the slot that would suit the first block, ``open_home`` the one that would suit open blocks: apart from
    the others where these come and go, since in their midst it would be in the way of longer runs.
    """

    def __init__(self, store: S, layer: int, home: int | None = None, open_home: int | None = None) -> None:
        self._store = store
        self._layer = layer
        self._home = home
        self._open_home = open_home
        self._sequence = store.new_sequence()
        self._next_index = 0
        self._open_slot: int | None = None
        self._leaving: list[KVBlockKey] = []
        self.blocks: list[KVBlockKey] = []
        self.origin: int | None = None
        """The token of the arena at which position 0 lies or would lie; None where blocks move or are no neighbours."""
        self.num_dropped = 0
        """Blocks at the front that slid out of the window and are gone."""
        self.num_tokens = 0

    def grow(self, count: int, write: Write) -> None:
        """Add ``count`` tokens, which ``write`` puts where they belong. Raises TierFullError if no tier has room."""
        offset = self.num_tokens % self._store.block_tokens
        if self._open_slot is not None and offset + count < self._store.block_tokens:
            # Nearly every step of a decode, in every layer: the block stays open, and no other is needed.
            write(self._open_slot, offset, 0, count)
            self.num_tokens += count
            return
        position, end = 0, count
        while position < end:
            if self._open_slot is None:
                slots, blocks = self._open_blocks(end - position)
            else:
                slots, blocks = [self._open_slot], self.blocks[-1:]
            try:
                position = self._fill(slots, blocks, end, write, position)
            except BaseException:
                self._cut(len(self.blocks) - len(blocks))
                raise

    def spans(self, begin: int, end: int) -> tuple[list[KVBlockKey], list[Span]]:
        """The blocks that hold the tokens at positions ``begin .. end - 1`` and, for each, which part of it."""
        size = self._store.block_tokens
        first, last = begin // size, -(-end // size)
        assert first >= self.num_dropped, "these tokens are gone"
        keys = self.blocks[first - self.num_dropped : last - self.num_dropped]
        spans = [Span(0, size, i * size) for i in range(first, last)]
        if spans:
            spans[-1] = Span(0, end - (last - 1) * size, (last - 1) * size)
            spans[0] = Span(begin - first * size, spans[0].stop, begin)
        return keys, spans

    def fork(self) -> Self:
        """A row with the same tokens: full blocks are shared, the open one is copied."""
        size = self._store.block_tokens
        other = type(self)(self._store, self._layer)
        other.blocks = list(self.full_blocks())
        self._store.manager.share(other.blocks)
        other.num_dropped = self.num_dropped
        other._next_index = self.num_dropped + len(other.blocks)  # noqa: SLF001 - one of our own class
        other.num_tokens = (self.num_dropped + len(other.blocks)) * size
        if self._open_slot is not None:
            try:
                other.grow(self.num_tokens % size, partial(self._store.copy, self._open_slot))
            except BaseException:
                other.clear()
                raise
        return other

    def drop_before(self, position: int) -> None:
        """Forget the blocks whose tokens all lie before ``position``: a sliding window has passed them."""
        count = min(position // self._store.block_tokens, self._next_index) - self.num_dropped
        if count > 0:
            self._leaving += self.blocks[:count]
            del self.blocks[:count]
            self.num_dropped += count
            self._give_back()

    def crop(self, num_tokens: int) -> None:
        """Keep the first ``num_tokens`` tokens, of which a sliding window must not have dropped any."""
        if num_tokens >= self.num_tokens:
            return
        size = self._store.block_tokens
        kept = -(-num_tokens // size) - self.num_dropped
        assert kept >= 0, "these tokens are gone"
        if kept < len(self.blocks):
            self._cut(kept)
        filled = num_tokens % size
        if filled and self._open_slot is None:
            self._reopen_last(filled)
        self.num_tokens = num_tokens

    def clear(self) -> None:
        """Give every block back."""
        self._cut(0)
        self.num_dropped = self.num_tokens = self._next_index = 0

    def full_blocks(self) -> Sequence[KVBlockKey]:
        """The blocks that may be on a lower tier."""
        return self.blocks if self._open_slot is None else self.blocks[:-1]

    def _open_blocks(self, num_tokens: int) -> tuple[list[int], list[KVBlockKey]]:
        """Open new blocks at the end: for so many tokens, or as many as the device can take at once."""
        full, rest = divmod(num_tokens, self._store.block_tokens)
        if self._open_home is None:
            prefer = None if self._home is None else self._home + self._next_index
            wanted = full + (rest > 0)
        else:
            prefer = None if full else self._open_home
            wanted = full or 1
        while True:
            keys = [KVBlockKey(self._sequence, self._layer, self._next_index + i) for i in range(wanted)]
            try:
                slots = self._store.manager.prepare_store(keys, prefer)
            except TierFullError:
                if wanted == 1 and not self._store.make_way():
                    raise
                wanted = max(1, wanted // 2)
                continue
            self._note_origin(slots)
            self._next_index += wanted
            self.blocks += keys
            return slots, keys

    def _fill(self, slots: Sequence[int], blocks: Sequence[KVBlockKey], end: int, write: Write, position: int) -> int:
        """Write tokens from ``position`` on into the given blocks at the end; returns where it stopped."""
        size = self._store.block_tokens
        for first, count in _runs(slots):
            offset = self.num_tokens % size
            stop = min(end, position + count * size - offset)
            write(first, offset, position, stop)
            self.num_tokens += stop - position
            position = stop
        is_full = self.num_tokens % size == 0
        self._open_slot = None if is_full else slots[-1]
        written = blocks if is_full else blocks[:-1]
        if written:
            self._store.manager.complete_store(written)
        return position

    def _cut(self, kept: int) -> None:
        """Give back all but the first ``kept`` blocks, and the tokens in them."""
        self._leaving += self.blocks[kept:]
        del self.blocks[kept:]
        self._next_index = self.num_dropped + kept
        self.num_tokens = min(self.num_tokens, self._next_index * self._store.block_tokens)
        self._open_slot = None
        # Another row may live on in the blocks that had the next names.
        self._sequence = self._store.new_sequence()
        self._give_back()

    def _give_back(self) -> None:
        """One by one: giving a block back may wait for it, and what interrupts that must not lose the others."""
        while self._leaving:
            self._store.manager.discard(self._leaving[-1:])
            del self._leaving[-1]

    def _reopen_last(self, filled: int) -> None:
        """Make the last block writable again, with its first ``filled`` tokens; another row may still read it."""
        manager, key = self._store.manager, self.blocks[-1]
        if not manager.is_shared(key):
            self._open_slot = manager.reopen(key)
            return
        manager.prepare_load([key])
        (slot,) = manager.complete_load([key])
        manager.share([key])  # what is copied must not go with the other row
        try:
            self._cut(len(self.blocks) - 1)
            self.grow(filled, partial(self._store.copy, slot))
        finally:
            manager.release([key])
            manager.discard([key])

    def _note_origin(self, slots: Sequence[int]) -> None:
        """Follow where new blocks lie, as long as all are neighbours."""
        if not self._store.is_still:
            return
        size = self._store.block_tokens
        origin = (slots[0] - self._next_index) * size
        is_run = slots[-1] - slots[0] == len(slots) - 1
        is_next = not self.blocks or self.origin == origin
        self.origin = origin if is_run and is_next else None


def _runs(slots: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Slots that are neighbours, as the first of them and their number."""
    first, count = slots[0], 1
    for slot in slots[1:]:
        if slot == first + count:
            count += 1
        else:
            yield first, count
            first, count = slot, 1
    yield first, count
