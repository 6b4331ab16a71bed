"""Whole groups by the bounds of their scores: Quest (Tang et al., ICML 2024) inside the drive."""

import numpy as np

from tiers.csd.engines.base import AttentionResult
from tiers.csd.engines.budget import check_share, count_of
from tiers.csd.engines.group_range import KeyRange, score_bounds
from tiers.csd.engines.read import in_memory_group, largest, read_scores, read_values, scaled_heads
from tiers.csd.engines.softmax import log_sum_exp, softmax, weights
from tiers.csd.pages import Floats, SequencePages


class GroupBoundsEngine:
    """Reads the groups whose keys could score highest; the others count for nothing, in output and logsumexp.

    ``groups`` is the share of the full groups of each KV head that is read, the newest among them.
    """

    summary = KeyRange()

    def __init__(self, groups: float = 1 / 8) -> None:
        """Raises InvalidOptionError for a share out of range."""
        self.groups = check_share(groups, "the share of groups")

    def attend(self, query: Floats, pages: SequencePages) -> AttentionResult:
        scaled = scaled_heads(query, pages)
        output = np.zeros_like(scaled)
        total = np.empty(scaled.shape[:2], np.float32)
        pages.log.enter("summaries")
        ranges = [pages.summaries(head).astype(np.float32, copy=False) for head in range(len(scaled))]
        pages.log.enter("groups")
        for head, kept in enumerate(ranges):
            ranking = softmax(score_bounds(scaled[head], kept[:, 0], kept[:, 1])).sum(axis=0)
            ranking[-1:] = np.inf
            chosen = largest(ranking, count_of(self.groups, len(kept)))
            groups = np.concatenate([chosen, in_memory_group(pages)])
            scores = read_scores(scaled[head], pages, head, groups).reshape(scaled.shape[1], -1)
            values = read_values(pages, head, groups).reshape(-1, scaled.shape[2])
            total[head] = log_sum_exp(scores)
            output[head] = weights(scores, total[head]) @ values
        return AttentionResult(output.reshape(query.shape), total.reshape(-1))
