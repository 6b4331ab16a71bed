"""The flash pages of keys and values of one layer, and which of them an attention step touches."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulators.flash.drive import DriveParameters
from simulators.flash.engines import EngineWork
from simulators.flash.timing import PagesTouched, Phase
from simulators.model_costs import ModelShape
from simulators.serving.selection import Selection, WholeGroups
from tiers.errors import InvalidOptionError

_FEWEST_CHANNELS, _MOST_CHANNELS = 2, 8
_HALF_NBYTES, _FLOAT_NBYTES = 2, 4


@dataclass(frozen=True, slots=True)
class KVPages:
    """Layout of InstAttention: groups of tokens of K and of V, and of K a second copy by channels.

    ``jobs`` KV heads x sequences of one layer of one drive. Pages are numbered job by job (groups of K, of V, then the
    channel copy) and striped: page ``n`` lies on the next channel, behind the last channel on the next die. Where a
    sense brings several pages, as many neighbours are one row of a die. Only full pages are in flash; other tokens wait
    in the device's memory.
    """

    drive: DriveParameters
    head_dim: int
    heads_per_kv: int
    jobs: int
    max_tokens: int

    def __post_init__(self) -> None:
        token_nbytes = self.head_dim * _HALF_NBYTES
        if self.drive.page_nbytes % token_nbytes:
            raise InvalidOptionError(
                f"{token_nbytes} bytes of a token and head do not divide pages of {self.drive.page_nbytes} bytes; "
                "choose a page size that is a multiple"
            )

    @property
    def tokens_per_group(self) -> int:
        """In one page of the token index."""
        return self.drive.page_nbytes // (self.head_dim * _HALF_NBYTES)

    @property
    def channels_per_page(self) -> int:
        """As few from 2 to 8 as make a page cover a quarter of the longest context at most, else as many as may."""
        divisors = [c for c in range(_FEWEST_CHANNELS, _MOST_CHANNELS + 1) if self.head_dim % c == 0] or [self.head_dim]
        fitting = (c for c in divisors if self.tokens_per_group * (self.head_dim // c) * 4 <= self.max_tokens)
        return next(fitting, divisors[-1])

    @property
    def tokens_per_span(self) -> int:
        """Of each channel in one page of the channel copy."""
        return self.tokens_per_group * self.pages_per_span

    @property
    def pages_per_span(self) -> int:
        """All channels of a span."""
        return self.head_dim // self.channels_per_page

    def num_pages(self, tokens: int, *, channel_copy: bool = True) -> int:
        """Full pages of one job."""
        copies = tokens // self.tokens_per_span * self.pages_per_span if channel_copy else 0
        return 2 * (tokens // self.tokens_per_group) + copies

    def touched(self, pages: NDArray[np.int64]) -> PagesTouched:
        """Where pages of these numbers lie."""
        senses = pages // self.drive.pages_per_sense
        stripes = senses // self.drive.channels
        return PagesTouched(
            senses % self.drive.channels, stripes % self.drive.dies_per_channel, stripes // self.drive.dies_per_channel
        )

    def written(self, pages_per_job: float) -> PagesTouched:
        """As many pages for all jobs together, in erase blocks of their own: a die's share is in one piece."""
        number = np.arange(round(pages_per_job * self.jobs))
        unit = number // self.drive.pages_per_program
        return PagesTouched(unit % self.drive.channels, unit // self.drive.channels % self.drive.dies_per_channel)

    def dense(self, tokens: int) -> list[Phase]:
        """All of K, then all of V."""
        heads, full = self.jobs * self.heads_per_kv, tokens // self.tokens_per_group
        groups = np.ones((self.jobs, full), bool)
        tail = self._tail_nbytes(tokens)
        flops = 2.0 * heads * tokens * self.head_dim
        score = EngineWork(flops=flops, scores=heads * tokens, dram_nbytes=tail)
        weigh = EngineWork(weighing_flops=flops, dram_nbytes=tail)
        return [
            Phase(self.touched(self._numbers(groups, 0, 2 * full)), score),
            Phase(self.touched(self._numbers(groups, full, 2 * full)), weigh),
        ]

    def sparse(self, tokens: int, selection: Selection) -> list[Phase]:
        """SparF: picked channels of K for an estimate, then groups of K and V with a picked token."""
        heads, full = self.jobs * self.heads_per_kv, tokens // self.tokens_per_group
        by_channel = selection.channel_pages(self.jobs, self.head_dim, self.channels_per_page)
        copies = np.tile(by_channel, (1, tokens // self.tokens_per_span))
        groups = selection.groups(self.jobs, tokens, self.tokens_per_group)[:, :full]
        picked, stride = selection.num_tokens(tokens), self.num_pages(tokens)
        tail = self._tail_nbytes(tokens)
        estimate = EngineWork(
            flops=2.0 * heads * tokens * selection.channels,
            scores=heads * tokens,
            ranked=self.jobs * tokens,
            dram_nbytes=2.0 * _FLOAT_NBYTES * heads * tokens + self._span_tail_nbytes(tokens, selection.channels),
        )
        exact = EngineWork(flops=2.0 * heads * picked * self.head_dim, scores=heads * picked, dram_nbytes=tail)
        weigh = EngineWork(weighing_flops=2.0 * heads * picked * self.head_dim, dram_nbytes=tail)
        return [
            Phase(self.touched(self._numbers(copies, 2 * full, stride)), estimate),
            Phase(self.touched(self._numbers(groups, 0, stride)), exact),
            Phase(self.touched(self._numbers(groups, full, stride)), weigh),
        ]

    def whole_groups(self, tokens: int, selection: WholeGroups) -> list[Phase]:
        """Summaries in the device's memory, then pages of K, then of V."""
        full = tokens // self.tokens_per_group
        keys, values = selection.groups(self.jobs, full)
        num_summaries = self.jobs * full
        vectors = num_summaries * selection.vectors * self.head_dim
        estimate = EngineWork(
            flops=2.0 * vectors * self.heads_per_kv,
            scores=num_summaries * self.heads_per_kv,
            ranked=num_summaries,
            dram_nbytes=float(vectors * _HALF_NBYTES),
        )
        tail = self._tail_nbytes(tokens)
        rows = self.tokens_per_group * self.heads_per_kv
        exact = EngineWork(flops=2.0 * keys.sum() * rows * self.head_dim, dram_nbytes=tail)
        weigh = EngineWork(weighing_flops=2.0 * values.sum() * rows * self.head_dim, dram_nbytes=tail)
        scores = EngineWork(scores=float(keys.sum() * rows))
        return [
            Phase(self.touched(np.empty(0, np.int64)), estimate),
            Phase(self.touched(self._numbers(keys, 0, 2 * full)), exact + scores),
            Phase(self.touched(self._numbers(values, full, 2 * full)), weigh),
        ]

    def _numbers(self, mask: NDArray[np.bool_], first: int, stride: int) -> NDArray[np.int64]:
        """Numbers of the pages that are True in [jobs, pages]: page 0 of a job is ``first`` of its ``stride`` pages."""
        job, page = np.nonzero(mask)
        return job * stride + first + page

    def _tail_nbytes(self, tokens: int) -> float:
        return float(self.jobs * (tokens % self.tokens_per_group) * self.head_dim * _HALF_NBYTES)

    def _span_tail_nbytes(self, tokens: int, channels: int) -> float:
        return float(self.jobs * (tokens % self.tokens_per_span) * channels * _HALF_NBYTES)


def pages_of(drive: DriveParameters, shape: ModelShape, batch: int, drives: int, max_tokens: int) -> KVPages:
    """Those of one drive, KV heads being split over ``drives``; InvalidOptionError where they do not divide."""
    if drives < 1 or shape.kv_heads % drives:
        raise InvalidOptionError(
            f"{shape.kv_heads} KV heads cannot be split evenly over {drives} drives; choose a divisor of them"
        )
    return KVPages(drive, shape.head_dim, shape.heads // shape.kv_heads, batch * shape.kv_heads // drives, max_tokens)


def flushed_per_step(pages: KVPages, *, is_twice: bool) -> float:
    """Pages of one job that a step fills on average; the background writes them evenly. ``is_twice``: K by channels."""
    return (2.0 + is_twice) / pages.tokens_per_group
