"""The two mapping tables of the drive: from what a page holds to where it lies."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from tiers.csd.geometry import PageNumbers
from tiers.csd.pages import Indices, KVShape, PageKind

MAPPED_KINDS = (PageKind.KEY_GROUP, PageKind.VALUE_GROUP, PageKind.KEY_CHANNELS, PageKind.SUMMARY)
"""What lies in flash."""

RECOVERED_KINDS = MAPPED_KINDS[:3]
"""What is still there when the drive comes back; see ``summaries`` for the others."""


class LayerKey(NamedTuple):
    """One layer of one sequence of one task."""

    task: int
    sequence: int
    layer: int


class PageTable:
    """Physical pages of one kind of one layer: ``[heads, num_pages]``, appended to at the end of every head at once."""

    def __init__(self, heads: int) -> None:
        self._pages: PageNumbers = np.empty((heads, 8), np.int64)
        self.num_pages = 0
        """Of each head."""

    @property
    def heads(self) -> int:
        return len(self._pages)

    def extend(self, pages: PageNumbers) -> None:
        """Append ``pages`` [heads, n]."""
        end = self.num_pages + pages.shape[1]
        if end > self._pages.shape[1]:
            grown = np.empty((len(self._pages), max(end, 2 * self._pages.shape[1])), np.int64)
            grown[:, : self.num_pages] = self._pages[:, : self.num_pages]
            self._pages = grown
        self._pages[:, self.num_pages : end] = pages
        self.num_pages = end

    def cut(self, num_pages: int) -> PageNumbers:
        """Forget all but the first ``num_pages`` of every head; returns the others."""
        gone = self._pages[:, num_pages : self.num_pages].reshape(-1)
        self.num_pages = num_pages
        return gone

    def look_up(self, head: int, indices: Indices) -> PageNumbers:
        """Where pages of one head lie. IndexError beyond the last."""
        return np.asarray(self._pages[head, : self.num_pages][indices])

    def all(self) -> PageNumbers:
        """[heads, num_pages]."""
        return self._pages[:, : self.num_pages]


@dataclass(slots=True)
class MappingTables:
    """``tokens``: pages of the token index, of keys and of values. ``channels``: of the channel index.

    ``summaries``: of what an engine keeps of groups, where the memory is short.
    """

    tokens: dict[LayerKey, tuple[PageTable, PageTable]] = field(default_factory=dict)
    channels: dict[LayerKey, PageTable] = field(default_factory=dict)
    summaries: dict[LayerKey, PageTable] = field(default_factory=dict)

    def add(self, key: LayerKey, shape: KVShape) -> None:
        """A layer without pages."""
        self.tokens[key] = (PageTable(shape.kv_heads), PageTable(shape.kv_heads))
        self.channels[key] = PageTable(shape.kv_heads)
        self.summaries[key] = PageTable(shape.kv_heads)

    def of(self, key: LayerKey, kind: PageKind) -> PageTable:
        """The table of one kind of page."""
        match kind:
            case PageKind.KEY_CHANNELS:
                return self.channels[key]
            case PageKind.SUMMARY:
                return self.summaries[key]
            case _:
                return self.tokens[key][int(kind)]

    def remove(self, key: LayerKey) -> PageNumbers:
        """Forget a layer; returns its pages."""
        tables = (*self.tokens.pop(key), self.channels.pop(key), self.summaries.pop(key))
        return np.concatenate([table.all().reshape(-1) for table in tables])

    def all_pages(self) -> PageNumbers:
        """Every page that is mapped."""
        tables = [table for pair in self.tokens.values() for table in pair]
        tables += [*self.channels.values(), *self.summaries.values()]
        return np.concatenate([np.empty(0, np.int64), *(table.all().reshape(-1) for table in tables)])
