"""One layer of one sequence inside the drive: tokens that wait in memory, and those in flash.

Keys and values of new tokens wait in *buffers* until a group of them fills a page in every head. Groups are then
programmed together, those of all heads side by side, when the drive has nothing else to do or the next token wants
the room. Pages of the channel index take many more tokens. Their keys stay in memory as well while that is less than
half full (a *wide* buffer); otherwise they are read back from the token index when a span is complete, and until then
a reader gets the channels of these tokens from their groups. So it is, too, while the order of the channels is still to
be learnt: the prompt's share of the channel index is then programmed behind the first queries, a span at a time.
"""

from collections.abc import Iterable
from contextlib import suppress

import numpy as np

from tiers.csd.channel_order import ChannelLearner
from tiers.csd.engines.base import GroupSummary
from tiers.csd.ftl import FlashTranslation
from tiers.csd.layout import Bytes, channel_pages, group_pages, groups_in
from tiers.csd.memory import DeviceMemory
from tiers.csd.page_table import LayerKey
from tiers.csd.pages import Floats, Halves, Indices, KVShape, PageKind
from tiers.csd.sizing import buffer_nbytes
from tiers.csd.summaries import GroupSummaries
from tiers.errors import TierError

_GROUPS = 256
"""Of those that are read when a drive comes back, so many at a time."""


class StoredLayer:
    """Appended to by ``append``, read through ``LayerPages``. A call that raises has changed nothing."""

    def __init__(
        self,
        key: LayerKey,
        shape: KVShape,
        *,
        key_copies: int,
        flash: FlashTranslation,
        memory: DeviceMemory,
        summary: GroupSummary,
        learns_order: bool = False,
    ) -> None:
        """A layer without tokens, or with those that ``flash`` already maps. Raises DriveFullError.

        ``learns_order``: the channel index waits for an order of the channels, which queries decide.
        """
        self.key, self.shape, self.key_copies = key, shape, key_copies
        self.flash = flash
        self._memory = memory
        self.summaries = GroupSummaries(shape, summary)
        self._token_nbytes = shape.head_dim * np.dtype(shape.dtype).itemsize * shape.kv_heads
        narrow = buffer_nbytes(shape)
        wide = narrow + (shape.tokens_per_span - shape.tokens_per_group) * self._token_nbytes
        self.is_wide = key_copies == 2 and memory.leaves_half(wide)
        self._reserved_nbytes = 0
        self._reserve((wide if self.is_wide else narrow) + (ChannelLearner.nbytes(shape) if learns_order else 0))
        key_capacity = shape.tokens_per_span if self.is_wide else shape.tokens_per_group
        # Rows beyond the last token are zero, so that a group that is not full can be handed out as it is.
        self.keys: Halves = np.zeros((shape.kv_heads, key_capacity, shape.head_dim), shape.dtype)
        self.values: Halves = np.zeros((shape.kv_heads, shape.tokens_per_group, shape.head_dim), shape.dtype)
        self.value_sum: Floats = np.zeros((shape.kv_heads, shape.head_dim), np.float32)
        self.num_tokens = self.num_flushed = self.key_start = 0
        if key in flash.tables.tokens:
            self._take_over()
        else:
            flash.add_layer(key, shape)
        self.channel_order = flash.orders.get(key)
        """Of the channel index, [kv_heads, head_dim]; None for the natural one."""
        is_open = learns_order and self.channel_order is None and not flash.tables.channels[key].num_pages
        self._learner = ChannelLearner(shape) if is_open else None
        self._learnt: Indices | None = None

    @property
    def num_in_channel_index(self) -> int:
        """Tokens, from the first, whose keys are in the channel index."""
        return self.flash.tables.channels[self.key].num_pages // self.shape.pages_per_span * self.shape.tokens_per_span

    @property
    def num_full_groups(self) -> int:
        """Of all tokens."""
        return self.num_tokens // self.shape.tokens_per_group

    @property
    def has_full_group(self) -> bool:
        """Whether ``flush`` would program something."""
        return self.num_tokens - self.num_flushed >= self.shape.tokens_per_group

    @property
    def is_behind(self) -> bool:
        """Whether ``index`` would program something: spans that are whole, in flash, and not in the channel index."""
        if self.key_copies == 1 or (self._learner is not None and self._learnt is None):
            return False
        return self.num_flushed - self.num_in_channel_index >= self.shape.tokens_per_span

    def memory_for(self, num_tokens: int) -> int:
        """Bytes of the drive's memory that so many tokens more will take."""
        filled = (self.num_tokens + num_tokens) // self.shape.tokens_per_group - self.num_full_groups
        return filled * self.summaries.nbytes_per_group

    def append(self, keys: Halves, values: Halves) -> None:
        """``keys`` and ``values`` [kv_heads, n, head_dim] of the next n tokens.

        Few tokens go to the buffers. Where they do not fit, everything that fills groups goes to flash at once. Raises
        DriveFullError, TransferError, CorruptBlockError.
        """
        n, held = keys.shape[1], self.num_tokens - self.num_flushed
        summaries_nbytes = self.memory_for(n)
        self._reserve(summaries_nbytes)
        try:
            if held + n > self.shape.tokens_per_group:
                held_keys = self.keys[:, : self.num_tokens - self.key_start]
                all_keys = np.concatenate([held_keys, keys], axis=1, dtype=self.keys.dtype)
                all_values = np.concatenate([self.values[:, :held], values], axis=1, dtype=self.values.dtype)
                old = (self.key_start, self.num_flushed)
                self._store(all_keys, all_values, self.num_tokens + n)
            else:
                first = self.num_tokens - self.key_start
                self.keys[:, first : first + n] = keys
                self.values[:, held : held + n] = values
                all_keys, all_values, old = self.keys, self.values, (self.key_start, self.num_flushed)
        except BaseException:
            self._release(summaries_nbytes)
            raise
        self.num_tokens += n
        self.value_sum += values.astype(self.values.dtype).sum(axis=1, dtype=np.float32)
        self._summarise(all_keys, old[0], all_values, old[1])

    def flush(self) -> None:
        """Program the group that is full, if there is one; raises as ``append``."""
        if self.has_full_group:
            keys = self.keys[:, : self.num_tokens - self.key_start]
            self._store(keys, self.values[:, : self.num_tokens - self.num_flushed], self.num_tokens)

    def note_query(self, query: Floats) -> None:
        """[heads, head_dim]; from the first few an order is learnt, where one is wanted."""
        if self._learner is not None and self._learnt is None:
            self._learnt = self._learner.note(query)

    def index(self) -> None:
        """Program a span of the channel index that is behind, if there is one; raises as ``append``."""
        if not self.is_behind:
            return
        if self._learnt is not None:
            self.flash.set_order(self.key, self._learnt)
            self.channel_order, self._learnt, self._learner = self._learnt, None, None
        first = self.num_in_channel_index
        keys = self._read_keys(first, first + self.shape.tokens_per_span)
        self.flash.append(self.key, [(PageKind.KEY_CHANNELS, channel_pages(self.shape, keys, self.channel_order))])

    def spill(self) -> None:
        """Program the summaries that fill pages, and have their memory back; raises DriveFullError, TransferError."""
        if groups := self.summaries.num_spillable:
            self.flash.append(self.key, [(PageKind.SUMMARY, self.summaries.pages())])
            self.summaries.forget_spilled(groups)
            self._release(groups * self.summaries.nbytes_per_group)

    def forget(self) -> None:
        """Give the memory back; the pages are the caller's to finish."""
        self._release(self._reserved_nbytes)

    def _store(self, keys: Halves, values: Halves, end: int) -> None:
        """Program all full groups up to token ``end``; ``keys`` start at key_start, ``values`` at num_flushed."""
        shape, start = self.shape, self.num_flushed
        stop = end // shape.tokens_per_group * shape.tokens_per_group
        offset = self.key_start
        parts: list[tuple[PageKind, Bytes]] = [
            (PageKind.KEY_GROUP, group_pages(shape, keys[:, start - offset : stop - offset])),
            (PageKind.VALUE_GROUP, group_pages(shape, values[:, : stop - start])),
        ]
        first, span = self.num_in_channel_index, shape.tokens_per_span
        # What is further behind than the span that is being filled is left to ``index``.
        in_step = self.key_copies == 2 and self._learner is None and first == start // span * span
        last = stop // span * span if in_step else first
        if last > first:
            spans = keys[:, max(first, offset) - offset : last - offset]
            if first < offset:
                spans = np.concatenate([self._read_keys(first, min(offset, last)), spans], axis=1)
            parts.append((PageKind.KEY_CHANNELS, channel_pages(shape, spans, self.channel_order)))
        self.flash.append(self.key, parts)
        self.num_flushed = stop
        self.key_start = max(offset, last) if self.is_wide and in_step else stop
        self._refill(self.keys, keys[:, self.key_start - offset :])
        self._refill(self.values, values[:, stop - start :])

    def _read_keys(self, first: int, last: int) -> Halves:
        """Keys [kv_heads, last - first, head_dim] from the token index; both are multiples of the group."""
        shape = self.shape
        groups = np.arange(first // shape.tokens_per_group, last // shape.tokens_per_group)
        read = [
            groups_in(shape, self.flash.read_back(self.key, PageKind.KEY_GROUP, head, groups))
            for head in range(shape.kv_heads)
        ]
        return np.stack(read).reshape(shape.kv_heads, last - first, shape.head_dim)

    def _take_over(self) -> None:
        """Start from what is in flash: sums and summaries of it are made again."""
        shape, tables, heads = self.shape, self.flash.tables, range(self.shape.kv_heads)
        num_groups = tables.of(self.key, PageKind.KEY_GROUP).num_pages
        self.num_tokens = self.num_flushed = self.key_start = num_groups * shape.tokens_per_group
        many = self._memory.has(_GROUPS * self.summaries.nbytes_per_group)
        step = _GROUPS if many else 1  # where memory is short, what fills a page is spilled before the next comes
        for first in range(0, num_groups, step):
            groups = np.arange(first, min(first + step, num_groups))
            nbytes = groups.size * self.summaries.nbytes_per_group
            if not self._memory.has(nbytes):
                with suppress(TierError):  # then ``_reserve`` says that the memory is short
                    self.spill()
            self._reserve(nbytes)
            keys, values = (
                np.stack([groups_in(shape, self.flash.read(self.key, kind, head, groups)) for head in heads])
                for kind in (PageKind.KEY_GROUP, PageKind.VALUE_GROUP)
            )
            self.value_sum += values.sum(axis=(1, 2), dtype=np.float32)
            self.summaries.add(keys, values)

    def _summarise(self, keys: Halves, key_start: int, values: Halves, value_start: int) -> None:
        """Of groups that became full: ``keys`` and ``values`` hold the tokens from these on."""
        shape, full = self.shape, self.num_full_groups
        first = self.summaries.num_groups
        if not self.summaries.vectors or full <= first:
            return
        start, stop = first * shape.tokens_per_group, full * shape.tokens_per_group
        grouped = (shape.kv_heads, full - first, shape.tokens_per_group, shape.head_dim)
        of_keys = keys[:, start - key_start : stop - key_start].reshape(grouped)
        of_values = values[:, start - value_start : stop - value_start].reshape(grouped)
        self.summaries.add(of_keys, of_values)

    def _refill(self, buffer: Halves, rest: Halves) -> None:
        buffer[:, : rest.shape[1]] = rest
        buffer[:, rest.shape[1] :] = 0

    def _reserve(self, nbytes: int) -> None:
        self._memory.reserve(nbytes)
        self._reserved_nbytes += nbytes

    def _release(self, nbytes: int) -> None:
        self._memory.release(nbytes)
        self._reserved_nbytes -= nbytes


def make_room(memory: DeviceMemory, layers: Iterable[StoredLayer], nbytes: int) -> None:
    """Have so much memory, if summaries that can be in flash instead are in its way: the most of them go first."""
    if memory.has(nbytes):
        return
    for layer in sorted(layers, key=lambda layer: -layer.summaries.num_spillable):
        if memory.has(nbytes) or not layer.summaries.num_spillable:
            return
        with suppress(TierError):  # whoever wants the memory is told that it is not there
            layer.spill()
