"""Keys and values as a computing drive holds them: pages of flash, and what it keeps about them in its memory.

The layout is that of InstAttention (HPCA 2025, section IV): a page of the token index holds some consecutive tokens of
one KV head (a *group*); a page of the channel index, a second copy of the keys, holds a few channels of many tokens.
Both pages have the same size. Tokens that do not fill a page yet wait in the drive's memory and cost no page.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tiers.csd.page_log import PageLog
from tiers.errors import InvalidOptionError

Indices = NDArray[np.intp]
Floats = NDArray[np.float32]
Halves = NDArray[np.floating[Any]]
"""In the dtype of the pages: float16 or float32."""


class PageKind(IntEnum):
    """What a page holds; a small integer so that a log is one array."""

    KEY_GROUP = 0
    VALUE_GROUP = 1
    KEY_CHANNELS = 2
    SUMMARY = 3
    """Summaries of groups, where the drive's memory is too small for them; see ``SequencePages.summaries``."""


@dataclass(frozen=True, slots=True)
class KVShape:
    """How the keys and values of one layer lie in pages.

    ``heads_per_kv`` query heads share one KV head. ``channels_per_page`` channels share a page of the channel index.
    InvalidOptionError where sizes do not divide.
    """

    kv_heads: int
    heads_per_kv: int
    head_dim: int
    dtype: DTypeLike = np.float16
    tokens_per_group: int = 16
    channels_per_page: int = 4

    def __post_init__(self) -> None:
        for name in ("kv_heads", "heads_per_kv", "head_dim", "tokens_per_group", "channels_per_page"):
            if getattr(self, name) < 1:
                raise InvalidOptionError(f"{name} is {getattr(self, name)}; it has to be at least 1")
        if self.head_dim % self.channels_per_page:
            raise InvalidOptionError(
                f"channels_per_page {self.channels_per_page} does not divide the head size {self.head_dim}; "
                "choose a divisor"
            )
        if np.dtype(self.dtype) not in (np.dtype(np.float16), np.dtype(np.float32)):
            raise InvalidOptionError(f"pages of {np.dtype(self.dtype)} are unknown; choose float16 or float32")

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.kv_heads * self.heads_per_kv

    @property
    def page_bytes(self) -> int:
        """Of a page of either index."""
        return self.tokens_per_group * self.head_dim * np.dtype(self.dtype).itemsize

    @property
    def pages_per_span(self) -> int:
        """Pages of the channel index that hold all channels of one span of tokens."""
        return self.head_dim // self.channels_per_page

    @property
    def tokens_per_span(self) -> int:
        """Tokens of each channel in one page of the channel index; a multiple of the group."""
        return self.tokens_per_group * self.pages_per_span

    def num_groups(self, num_tokens: int) -> int:
        """Groups that hold ``num_tokens``; the last may be partly filled."""
        return -(-num_tokens // self.tokens_per_group)


class SequencePages(Protocol):
    """One layer of one sequence as the drive holds it, read by pages; every page read goes to ``log``.

    Tokens that wait in the drive's memory for their page to fill are read without a page. Arrays may be views of the
    drive's memory: they are not written to. Page index of a group: its number. Page index in the channel index:
    ``span * shape.pages_per_span + slot // shape.channels_per_page`` where ``channel_order(kv_head)[slot]`` is the
    channel.
    """

    shape: KVShape
    num_tokens: int
    """All of them, those in pages and those in memory."""
    log: PageLog

    def key_groups(self, kv_head: int, groups: Indices) -> Halves:
        """[n, tokens_per_group, head_dim]; rows from ``num_tokens`` on are zero. ``groups`` ascend."""
        ...

    def value_groups(self, kv_head: int, groups: Indices) -> Halves:
        """As ``key_groups``."""
        ...

    def key_channels(self, kv_head: int, channels: Indices) -> Halves:
        """[n, num_tokens] in the order of ``channels``; whole pages are read and logged, each once."""
        ...

    def channel_order(self, kv_head: int) -> Indices:
        """[head_dim]: the channel in each slot of the channel index; the identity until one was learnt from queries."""
        ...

    def value_sum(self, kv_head: int) -> Floats:
        """[head_dim]: the running sum of V over all tokens, in the drive's memory."""
        ...

    def summaries(self, kv_head: int) -> Halves:
        """[full groups, vectors, head_dim]: what the engine asked to keep of each group.

        The drive calls the engine's ``GroupSummary`` once when a group fills (see ``tiers.csd.engines.base``) and keeps
        the answer in its memory; one that has no room there reads it from pages, all of a head's, and logs them.
        """
        ...
