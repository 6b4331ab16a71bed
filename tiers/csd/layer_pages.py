"""What an engine sees of a stored layer; every page that it reads is logged."""

import numpy as np

from tiers.csd.layer import StoredLayer
from tiers.csd.layout import Bytes, channels_in, groups_in
from tiers.csd.page_log import PageLog
from tiers.csd.pages import Floats, Halves, Indices, PageKind


class LayerPages:
    """SequencePages of one StoredLayer, for one attention. Methods raise CorruptBlockError."""

    def __init__(self, layer: StoredLayer, log: PageLog) -> None:
        self.shape = layer.shape
        self.num_tokens = layer.num_tokens
        self.log = log
        self._layer = layer

    def key_groups(self, kv_head: int, groups: Indices) -> Halves:
        return self._groups(PageKind.KEY_GROUP, kv_head, groups, self._layer.keys[kv_head], self._layer.key_start)

    def value_groups(self, kv_head: int, groups: Indices) -> Halves:
        layer = self._layer
        return self._groups(PageKind.VALUE_GROUP, kv_head, groups, layer.values[kv_head], layer.num_flushed)

    def key_channels(self, kv_head: int, channels: Indices) -> Halves:
        shape, layer = self.shape, self._layer
        indexed = layer.num_in_channel_index
        found = np.empty((channels.size, self.num_tokens), shape.dtype)
        if indexed:
            found[:, :indexed] = self._indexed_channels(kv_head, channels, indexed // shape.tokens_per_span)
        if indexed < self.num_tokens:
            # The rest has not filled pages of the channel index, or there is none: its groups are read and transposed.
            groups = np.arange(indexed // shape.tokens_per_group, shape.num_groups(self.num_tokens))
            rows = self.key_groups(kv_head, groups).reshape(-1, shape.head_dim)
            found[:, indexed:] = rows[: self.num_tokens - indexed, channels].T
        return found

    def channel_order(self, kv_head: int) -> Indices:
        order = self._layer.channel_order
        return np.arange(self.shape.head_dim) if order is None else order[kv_head]

    def value_sum(self, kv_head: int) -> Floats:
        found: Floats = self._layer.value_sum[kv_head]
        return found

    def summaries(self, kv_head: int) -> Halves:
        held = self._layer.summaries
        pages = held.page_indices()
        if not pages.size:
            return held.kept(kv_head)
        return np.concatenate([held.in_pages(self._read(PageKind.SUMMARY, kv_head, pages)), held.kept(kv_head)])

    def _indexed_channels(self, kv_head: int, channels: Indices, spans: int) -> Halves:
        """[n, spans * tokens_per_span], from whole pages, each read once."""
        shape = self.shape
        order = self._layer.channel_order
        slots = channels if order is None else np.argsort(order[kv_head])[channels]
        columns, column_of = np.unique(slots // shape.channels_per_page, return_inverse=True)
        pages = (np.arange(spans)[:, None] * shape.pages_per_span + columns).reshape(-1)
        read = self._read(PageKind.KEY_CHANNELS, kv_head, pages)
        by_span = channels_in(shape, read).reshape(spans, columns.size, shape.channels_per_page, shape.tokens_per_span)
        chosen = by_span[:, column_of, slots % shape.channels_per_page]
        return np.asarray(chosen.transpose(1, 0, 2).reshape(channels.size, -1))

    def _groups(self, kind: PageKind, kv_head: int, groups: Indices, buffer: Halves, buffer_start: int) -> Halves:
        """Groups before ``buffer_start`` from flash, the others from memory, where they cost no page."""
        shape = self.shape
        first = buffer_start // shape.tokens_per_group
        split = int(np.searchsorted(groups, first))
        if split == groups.size:
            return groups_in(shape, self._read(kind, kv_head, groups))
        waiting = buffer.reshape(-1, shape.tokens_per_group, shape.head_dim)[groups[split:] - first]
        if split == 0:
            return waiting
        return np.concatenate([groups_in(shape, self._read(kind, kv_head, groups[:split])), waiting])

    def _read(self, kind: PageKind, kv_head: int, pages: Indices) -> Bytes:
        self.log.add(kind, kv_head, pages)
        return self._layer.flash.read(self._layer.key, kind, kv_head, pages)
