"""A sequence whose pages are arrays in memory: the oracle of the drive's pages, and what experiments read."""

import numpy as np

from tiers.csd.engines.base import GroupSummary, NoSummary
from tiers.csd.page_log import PageLog
from tiers.csd.pages import Floats, Halves, Indices, KVShape, PageKind


class MemoryPages:
    """``SequencePages`` over arrays [kv_heads, tokens, head_dim].

    A group is in a page as soon as it is full, a span of the channel index as soon as all its pages are; what is newer
    costs no page. ``summary_pages``: the summaries are in pages too.
    """

    def __init__(
        self,
        shape: KVShape,
        *,
        summary: GroupSummary | None = None,
        channel_order: Indices | None = None,
        summary_pages: bool = False,
    ) -> None:
        """Empty. ``channel_order`` [kv_heads, head_dim]: the channel in each slot of the channel index."""
        self.shape = shape
        self.num_tokens = 0
        self.log = PageLog()
        self._summary = summary or NoSummary()
        self._summary_pages = summary_pages
        identity = np.broadcast_to(np.arange(shape.head_dim), (shape.kv_heads, shape.head_dim))
        self._order = identity if channel_order is None else channel_order
        self._slot = np.argsort(self._order, axis=1)
        self._keys = self._values = np.zeros((shape.kv_heads, 0, shape.head_dim), shape.dtype)
        self._summaries = np.zeros((shape.kv_heads, 0, self._summary.vectors, shape.head_dim), shape.dtype)
        self._value_sum = np.zeros((shape.kv_heads, shape.head_dim), np.float32)

    @property
    def num_full_groups(self) -> int:
        """Those that are in pages."""
        return self.num_tokens // self.shape.tokens_per_group

    def append(self, keys: Halves, values: Halves) -> None:
        """The next tokens, [kv_heads, n, head_dim]."""
        before, start = self.num_full_groups, self.num_tokens
        self._reserve(start + keys.shape[1])
        self.num_tokens += keys.shape[1]
        self._keys[:, start : self.num_tokens] = keys
        self._values[:, start : self.num_tokens] = values
        self._value_sum += self._values[:, start : self.num_tokens].sum(axis=1, dtype=np.float32)
        if self.num_full_groups > before:
            new = [
                self._summary(*(self._groups(rows, head)[before : self.num_full_groups] for rows in self._arrays()))
                for head in range(self.shape.kv_heads)
            ]
            self._summaries = np.concatenate([self._summaries, np.stack(new).astype(self.shape.dtype)], axis=1)

    def key_groups(self, kv_head: int, groups: Indices) -> Halves:
        self.log.add(PageKind.KEY_GROUP, kv_head, groups[groups < self.num_full_groups])
        return _take(self._groups(self._keys, kv_head), groups)

    def value_groups(self, kv_head: int, groups: Indices) -> Halves:
        self.log.add(PageKind.VALUE_GROUP, kv_head, groups[groups < self.num_full_groups])
        return _take(self._groups(self._values, kv_head), groups)

    def key_channels(self, kv_head: int, channels: Indices) -> Halves:
        slots = np.unique(self._slot[kv_head][channels] // self.shape.channels_per_page)
        spans = np.arange(self.num_tokens // self.shape.tokens_per_span)
        pages = spans[:, None] * self.shape.pages_per_span + slots
        self.log.add(PageKind.KEY_CHANNELS, kv_head, pages.ravel())
        found: Halves = self._keys[kv_head, : self.num_tokens].T[channels]
        return found

    def channel_order(self, kv_head: int) -> Indices:
        order: Indices = self._order[kv_head]
        return order

    def value_sum(self, kv_head: int) -> Floats:
        total: Floats = self._value_sum[kv_head]
        return total

    def summaries(self, kv_head: int) -> Halves:
        if self._summary_pages:
            num_pages = -(-self._summaries[kv_head].nbytes // self.shape.page_bytes)
            self.log.add(PageKind.SUMMARY, kv_head, np.arange(num_pages))
        found: Halves = self._summaries[kv_head]
        return found

    def _arrays(self) -> tuple[Halves, Halves]:
        return self._keys, self._values

    def _groups(self, rows: Halves, kv_head: int) -> Halves:
        groups: Halves = rows[kv_head].reshape(-1, self.shape.tokens_per_group, self.shape.head_dim)
        return groups

    def _reserve(self, num_tokens: int) -> None:
        """Room for whole groups, doubled as it grows so that appending one by one stays linear."""
        room = self._keys.shape[1]
        if num_tokens <= room:
            return
        per_group = self.shape.tokens_per_group
        more = self.shape.num_groups(max(num_tokens, 2 * room)) * per_group - room
        self._keys, self._values = (np.pad(rows, ((0, 0), (0, more), (0, 0))) for rows in self._arrays())


def _take(groups: Halves, wanted: Indices) -> Halves:
    """Rows that follow each other as a view, others as a copy."""
    follow = wanted.size and wanted[-1] - wanted[0] + 1 == wanted.size
    found: Halves = groups[wanted[0] : wanted[-1] + 1] if follow else groups[wanted]
    return found
