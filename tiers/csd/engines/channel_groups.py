"""Whole groups by their summed approximate scores: what a page costs is paid once, so all that is in it is used."""

import numpy as np

from tiers.csd.engines.base import AttentionResult, NoSummary
from tiers.csd.engines.budget import Amount, check_amount, check_share, count_of
from tiers.csd.engines.by_channels import attend_by_channels
from tiers.csd.engines.channels import approximate_scores, top_channel_pages, top_channels
from tiers.csd.engines.read import in_memory_group, largest, read_scores, read_values
from tiers.csd.engines.softmax import softmax
from tiers.csd.engines.sparf import reallocate
from tiers.csd.pages import Floats, Indices, SequencePages


class ChannelGroupsEngine:
    """SparF with pages for tokens: the groups with the largest sum of approximate weights, and all of their tokens.

    ``r`` channels and the share ``groups`` of the full groups of each KV head are read. ``whole_pages``: the channels
    are chosen by pages too, and all channels of a page used. The newest full group is among those read.
    """

    summary = NoSummary()

    def __init__(self, r: Amount = 1 / 8, groups: float = 1 / 8, *, whole_pages: bool = True) -> None:
        """Raises InvalidOptionError for amounts out of range."""
        check_amount(r, "r")
        self.r = r
        self.groups = check_share(groups, "the share of groups")
        self.whole_pages = whole_pages

    def attend(self, query: Floats, pages: SequencePages) -> AttentionResult:
        """Raises InvalidOptionError where ``r`` is larger than the head size."""
        return attend_by_channels(query, pages, self.r, self._share, "groups", self._attend)

    def _share(self, queries: Floats, pages: SequencePages, head: int) -> Floats:
        return softmax(approximate_scores(queries, pages, head, self._channels(queries, pages, head)))

    def _channels(self, queries: Floats, pages: SequencePages, head: int) -> Indices:
        r = count_of(self.r, pages.shape.head_dim)
        if self.whole_pages:
            return top_channel_pages(queries, r, pages.channel_order(head), pages.shape.channels_per_page)
        return top_channels(queries, r)

    def _attend(self, scaled: Floats, pages: SequencePages, head: int, share: Floats) -> tuple[Floats, Floats]:
        by_group = _sum_by_group(share, pages.shape.tokens_per_group)
        num_full = pages.num_tokens // pages.shape.tokens_per_group
        ranking = by_group[:, :num_full].sum(axis=0)
        ranking[-1:] = np.inf
        groups = np.concatenate([largest(ranking, count_of(self.groups, num_full)), in_memory_group(pages)])
        scores = read_scores(scaled, pages, head, groups)
        values = read_values(pages, head, groups)
        alpha = by_group[:, groups].sum(axis=1)
        mean_value = pages.value_sum(head) / np.float32(pages.num_tokens)
        return reallocate(scores.reshape(len(scores), -1), values.reshape(-1, values.shape[-1]), alpha, mean_value)


def _sum_by_group(weights: Floats, per_group: int) -> Floats:
    """[heads_per_kv, tokens] -> [heads_per_kv, groups], the last one perhaps of fewer tokens."""
    padded = np.pad(weights, ((0, 0), (0, -weights.shape[1] % per_group)))
    sums: Floats = padded.reshape(len(weights), -1, per_group).sum(axis=2)
    return sums
