"""What the drive keeps of each full group for an engine that selects by it: in memory, or in flash if that is short.

Summaries are made when a group fills and wait in memory. ``spill`` programs those that fill pages and forgets them
there; a reader then pays for these pages as for any other. They can be made again from the groups, so none of them has
to survive: a drive that comes back makes all of them again, and the pages that it had are dead.
"""

import numpy as np

from tiers.csd.engines.base import GroupSummary
from tiers.csd.layout import Bytes
from tiers.csd.pages import Halves, Indices, KVShape
from tiers.csd.sizing import summary_nbytes


class GroupSummaries:
    """Of one layer of one sequence. What it holds in memory is accounted for by its owner."""

    def __init__(self, shape: KVShape, summary: GroupSummary) -> None:
        self._shape = shape
        self._summary = summary
        self.vectors = summary.vectors
        self._kept: Halves = np.zeros((shape.kv_heads, 0, self.vectors, shape.head_dim), shape.dtype)
        self.num_groups = 0
        """All of them."""
        self.num_spilled = 0
        """Those that are in flash, the oldest."""

    @property
    def per_page(self) -> int:
        """Groups whose summaries share a page; 0 where one is larger than a page, or nothing is kept."""
        return self._shape.tokens_per_group // self.vectors if self.vectors else 0

    @property
    def nbytes_per_group(self) -> int:
        """Over all heads."""
        return summary_nbytes(self._shape, self.vectors)

    @property
    def num_spillable(self) -> int:
        """Groups whose summaries could leave the memory now: those of whole pages."""
        per_page = self.per_page
        return (self.num_groups - self.num_spilled) // per_page * per_page if per_page else 0

    def add(self, keys: Halves, values: Halves) -> None:
        """Of the next groups, [kv_heads, groups, tokens_per_group, head_dim]."""
        new = keys.shape[1]
        if not self.vectors or not new:
            return
        start = self.num_groups - self.num_spilled
        if start + new > self._kept.shape[1]:
            grown = np.zeros((len(self._kept), 2 * (start + new), *self._kept.shape[2:]), self._kept.dtype)
            grown[:, :start] = self._kept[:, :start]
            self._kept = grown
        for head in range(len(keys)):
            self._kept[head, start : start + new] = self._summary(keys[head], values[head])
        self.num_groups += new

    def kept(self, kv_head: int) -> Halves:
        """[groups, vectors, head_dim]: those in memory, behind the spilled ones."""
        return self._kept[kv_head, : self.num_groups - self.num_spilled]

    def pages(self) -> Bytes:
        """[kv_heads, n, page_nbytes]: the whole pages of what is in memory."""
        shape, groups = self._shape, self.num_spillable
        heads, num_pages = shape.kv_heads, groups // self.per_page
        of_page = self._kept[:, :groups].reshape(heads, num_pages, -1)
        padded = np.zeros((heads, num_pages, shape.tokens_per_group * shape.head_dim), shape.dtype)
        padded[:, :, : of_page.shape[2]] = of_page
        return padded.view(np.uint8)

    def forget_spilled(self, groups: int) -> None:
        """So many of those in memory are in flash now."""
        self._kept = self._kept[:, groups : self.num_groups - self.num_spilled].copy()
        self.num_spilled += groups

    def page_indices(self) -> Indices:
        """Of the pages of one head."""
        return np.arange(self.num_spilled // self.per_page if self.per_page else 0)

    def in_pages(self, pages: Bytes) -> Halves:
        """bytes [n, page_nbytes] -> [groups, vectors, head_dim]."""
        shape = self._shape
        rows = pages.view(np.dtype(shape.dtype)).reshape(len(pages), shape.tokens_per_group, shape.head_dim)
        return rows[:, : self.per_page * self.vectors].reshape(-1, self.vectors, shape.head_dim)
