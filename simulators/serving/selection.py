"""Which channels and tokens a sparse attention picks: drawn with a given clustering, where none were recorded."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tiers.errors import InvalidOptionError

Mask = NDArray[np.bool_]


class Selection(Protocol):
    """Indices of many heads and sequences (``jobs``), as the pages that they touch."""

    @property
    def channels(self) -> int:
        """Of each head, those whose part of the keys is read for the estimate."""
        ...

    def num_tokens(self, tokens: int) -> int:
        """How many of ``tokens`` are picked."""
        ...

    def channel_pages(self, jobs: int, head_dim: int, channels_per_page: int) -> Mask:
        """Pages that hold a picked channel, [jobs, head_dim / channels_per_page]."""
        ...

    def groups(self, jobs: int, tokens: int, tokens_per_group: int) -> Mask:
        """Groups of which at least one token is picked, [jobs, ceil(tokens / tokens_per_group)]."""
        ...


@dataclass(frozen=True, slots=True)
class ClusteredSelection:
    """``channels`` at random, and ``token_share`` of the tokens in runs of ``mean_run`` tokens on average.

    The run length is calibrated on the bytes that InstAttention reads in decode (its Table III). Chance alone, runs of
    one token, touches 88 % of the groups of 16 at a share of 1/8. ``seed`` makes draws repeatable.
    """

    channels: int = 16
    token_share: float = 1 / 8
    mean_run: float = 7.3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise InvalidOptionError(f"{self.channels} channels cannot be picked; it has to be at least 1")
        if not 0 < self.token_share <= 1:
            raise InvalidOptionError(f"the share of tokens is {self.token_share}; it has to be above 0 and at most 1")
        if self.mean_run < 1:
            raise InvalidOptionError(f"runs of {self.mean_run} tokens; they have to be at least 1 long")

    @classmethod
    def like(cls, tokens: Mask, channels: int, seed: int = 0) -> "ClusteredSelection":
        """Clustered as what an engine picked: ``tokens`` [rows, tokens], a row for each head, True where picked."""
        starts = tokens[:, 0].sum() + (tokens[:, 1:] & ~tokens[:, :-1]).sum()
        if not starts:
            raise InvalidOptionError("no token was picked, so that nothing is known of their clustering")
        return cls(channels, float(tokens.mean()), float(tokens.sum() / starts), seed)

    def num_tokens(self, tokens: int) -> int:
        """See Selection."""
        return max(1, round(tokens * self.token_share))

    def channel_pages(self, jobs: int, head_dim: int, channels_per_page: int) -> Mask:
        """See Selection."""
        if self.channels > head_dim:
            raise InvalidOptionError(f"{self.channels} of {head_dim} channels cannot be picked; take fewer")
        order = np.random.default_rng((self.seed, 0)).random((jobs, head_dim), np.float32)
        picked = np.argpartition(order, self.channels - 1, axis=1)[:, : self.channels]
        pages = np.zeros((jobs, head_dim // channels_per_page), bool)
        pages[np.arange(jobs)[:, None], picked // channels_per_page] = True
        return pages

    def groups(self, jobs: int, tokens: int, tokens_per_group: int) -> Mask:
        """See Selection."""
        starts, ends = self.runs(jobs, tokens)
        num_groups = -(-tokens // tokens_per_group)
        width = num_groups + 1
        rows = np.arange(jobs)[:, None] * width
        opened = np.bincount((rows + starts // tokens_per_group).ravel(), minlength=jobs * width)
        closed = np.bincount((rows + (ends - 1) // tokens_per_group + 1).ravel(), minlength=jobs * width)
        return np.cumsum((opened - closed).reshape(jobs, width), axis=1)[:, :num_groups] > 0

    def runs(self, jobs: int, tokens: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First token of each run and the one behind its last, [jobs, runs] each; exactly ``num_tokens`` are picked."""
        rng = np.random.default_rng((self.seed, 1, tokens))
        picked = self.num_tokens(tokens)
        most = min(picked, tokens - picked + 1)
        num_runs = min(max(1, round(picked / self.mean_run)), most)
        lengths = 1 + _parts(rng, jobs, picked - num_runs, num_runs)
        # Between runs there is at least one token, or they were one.
        gaps = _parts(rng, jobs, tokens - picked - (num_runs - 1), num_runs + 1)[:, :-1]
        gaps[:, 1:] += 1
        ends = np.cumsum(gaps + lengths, axis=1)
        return ends - lengths, ends


@dataclass(frozen=True, slots=True)
class WholeGroups:
    """Selection of pages instead of tokens: ``share`` of the groups of a layer, by summaries in the drive's memory.

    No second copy of the keys is needed. Pages of K are ``keys_per_page`` for each of the budget, the rest are of V, of
    groups whose keys were read. ``vectors`` of the head size are kept of each group.
    """

    share: float = 1 / 8
    keys_per_page: float = 4 / 3
    vectors: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InvalidOptionError(f"the share of groups is {self.share}; it has to be above 0 and at most 1")

    def groups(self, jobs: int, num_groups: int) -> tuple[Mask, Mask]:
        """Groups whose keys are read and those whose values are, [jobs, num_groups] each; all jobs share one budget."""
        total = jobs * num_groups
        num_keys = min(total, round(self.share * self.keys_per_page * total))
        num_values = min(num_keys, round(self.share * (2 - self.keys_per_page) * total))
        order = np.random.default_rng((self.seed, 2, num_groups)).permutation(total)[:num_keys]
        keys, values = np.zeros(total, bool), np.zeros(total, bool)
        keys[order], values[order[:num_values]] = True, True
        return keys.reshape(jobs, num_groups), values.reshape(jobs, num_groups)


def _parts(rng: np.random.Generator, jobs: int, total: int, count: int) -> NDArray[np.int64]:
    """``total`` cut at random in ``count`` parts from 0 up, [jobs, count]."""
    cuts = np.sort(rng.integers(0, total + 1, (jobs, count - 1)), axis=1)
    edges = np.concatenate([np.zeros((jobs, 1), np.int64), cuts, np.full((jobs, 1), total)], axis=1)
    return np.diff(edges, axis=1)
