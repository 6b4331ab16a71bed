"""Whole groups by the weight that they will have, and an estimate in the place of those not read.

Beyond the paper, which has no name for this. A group is a page of K and a page of V, so choosing single tokens saves
nothing, and the copy of K by channels that SparF needs for its approximate scores is half as large as what it saves.
The range of each group's keys, kept in the drive's memory, says about as much (Quest). Here it is read as a
distribution and not as a bound, which gives each group a weight that adds up. Three things follow. The groups of all KV
heads of a layer compete for one budget, so that heads that attend widely get more of it. What was not read still
counts, with its weight and the mean of its values. And the estimates are scaled, for each query, to what was read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tiers.csd.engines.base import AttentionResult
from tiers.csd.engines.budget import check_amount, count_of
from tiers.csd.engines.group_range import GroupRange, mass_terms
from tiers.csd.engines.read import in_memory_group, largest, read_scores, read_values, scaled_heads
from tiers.csd.engines.softmax import log_sum_exp, softmax, weights
from tiers.csd.pages import Floats, Indices, SequencePages

MOST_SCALE = np.float32(2)
"""Of the estimated spread: few groups read are weak evidence for more."""


class GroupMassEngine:
    """Reads the share ``groups`` of the full groups of a layer, the first and the newest of each head among them.

    The logsumexp stands for all tokens: exact weights of what was read, estimates for the rest.
    """

    summary = GroupRange()

    def __init__(self, groups: float) -> None:
        """Raises InvalidOptionError for a share out of range."""
        check_amount(groups, "the share of groups")
        self.groups = groups

    def attend(self, query: Floats, pages: SequencePages) -> AttentionResult:
        scaled = scaled_heads(query, pages)
        output = np.zeros_like(scaled)
        total = np.empty(scaled.shape[:2], np.float32)
        pages.log.enter("summaries")
        heads = [_Estimate.of(scaled[head], pages, head) for head in range(len(scaled))]
        pages.log.enter("groups")
        newest = in_memory_group(pages)
        for head, (estimate, chosen) in enumerate(zip(heads, self.choose(heads), strict=True)):
            groups = np.concatenate([chosen, newest])
            scores = read_scores(scaled[head], pages, head, groups)
            values = read_values(pages, head, groups).reshape(-1, scaled.shape[2])
            rest = estimate.without(chosen, log_sum_exp(scores[:, : len(chosen)]))
            everything = np.concatenate([scores.reshape(len(scores), -1), rest.masses], axis=1)
            total[head] = log_sum_exp(everything)
            output[head] = weights(everything, total[head]) @ np.concatenate([values, rest.values])
        return AttentionResult(output.reshape(query.shape), total.reshape(-1))

    def choose(self, heads: Sequence["_Estimate"]) -> list[Indices]:
        """The full groups of each head that are read, ascending: the heaviest of all heads together."""
        num_full = len(heads[0].values)
        rankings = np.stack([head.shares for head in heads])
        rankings[:, :1] = rankings[:, -1:] = np.inf
        budget = max(count_of(self.groups, num_full), min(2, num_full)) * len(heads)
        chosen = np.zeros(rankings.size, bool)
        chosen[largest(rankings.ravel(), budget)] = True
        return [np.flatnonzero(of_head) for of_head in chosen.reshape(rankings.shape)]


@dataclass(frozen=True, slots=True)
class _Rest:
    """Groups that were not read: log-weights [heads_per_kv, n] and mean values [n, head_dim]."""

    masses: Floats
    values: Floats


@dataclass(frozen=True, slots=True)
class _Estimate:
    """Of all full groups of a head, [heads_per_kv, groups]: see ``mass_terms``; ``values`` [groups, head_dim]."""

    middle: Floats
    added: Floats
    values: Floats
    shares: Floats
    """[groups]: the weight of each among all tokens, summed over the query heads."""

    @classmethod
    def of(cls, scaled: Floats, pages: SequencePages, kv_head: int) -> "_Estimate":
        kept = pages.summaries(kv_head).astype(np.float32, copy=False)
        middle, added = mass_terms(scaled, kept[:, 0], kept[:, 1], pages.shape.tokens_per_group)
        # The tokens in memory take part, so that a query that looks at them alone makes its head modest.
        newest = read_scores(scaled, pages, kv_head, in_memory_group(pages)).reshape(len(scaled), -1)
        shares = softmax(np.concatenate([middle + added, newest], axis=1))[:, : len(kept)].sum(axis=0)
        return cls(middle, added, kept[:, 2], shares)

    def without(self, chosen: Indices, exact: Floats) -> _Rest:
        """What is left after ``chosen``, whose log-weights turned out to be ``exact`` [heads_per_kv, chosen].

        The spread is scaled, for each query, by least squares over what was read.
        """
        added = self.added[:, chosen]
        missed = ((exact - self.middle[:, chosen]) * added).sum(axis=1)
        power = np.square(added).sum(axis=1)
        scale = np.clip(missed / np.where(power > 0, power, np.float32(1)), 0, MOST_SCALE)[:, None]
        rest = np.ones(len(self.values), bool)
        rest[chosen] = False
        return _Rest(self.middle[:, rest] + scale * self.added[:, rest], self.values[rest])
