"""Whole groups by the weight that they will have, and an estimate in the place of those not read.

Beyond the paper, which has no name for this. A group is a page of K and a page of V, so choosing single tokens saves
nothing, and the copy of K by channels that SparF needs for its approximate scores is half as large as what it saves.
The range of each group's keys, kept in the drive's memory, says about as much (Quest). Here it is read as a
distribution and not as a bound, which gives each group a weight that adds up. Four things follow. The groups of all KV
heads of a layer compete for one budget, so that heads that attend widely get more of it. Some more pages of K are read
than of V, for weights that are certain, and values only of the heaviest. What was not read still counts, with its
weight and the mean of its values. And the estimates are scaled, for each query, to what was read.
"""

from collections.abc import Sequence

import numpy as np

from tiers.csd.engines.base import AttentionResult
from tiers.csd.engines.budget import check_share, count_of
from tiers.csd.engines.group_range import GroupRange, group_mass_terms
from tiers.csd.engines.read import in_memory_group, largest, read_scores, read_values, scaled_heads
from tiers.csd.engines.softmax import log_sum_exp, weights
from tiers.csd.pages import Floats, Indices, SequencePages

KEYS_PER_PAGE = 4 / 3
"""Pages of K for each page of the budget, and so 2/3 of V. More of either is worse; on SmolLM2 with 4,096 tokens the
error at 1/2, 1/4, 1/8 and 1/16 is 0.007, 0.029, 0.051 and 0.091, where it is 0.021, 0.033, 0.056 and 0.096 with 1."""

MOST_SCALE = np.float32(2)
"""Of the estimated spread: few groups read are weak evidence for more."""

CORRECTION = np.float32(0.5)
"""How much of what the mean of V misses in the groups that were read is taken to be missed in the others.

The tokens with weight are often of one kind in all groups. None of it or all of it is worse by a tenth."""


class GroupMassEngine:
    """Reads the share ``groups`` of the pages of a layer, the first and the newest group of each head among them.

    ``ranges`` of the keys are kept of each group, of equal parts of it: one for 16 tokens is a good measure.
    The logsumexp stands for all tokens: exact weights where keys were read, estimates for the rest.
    """

    def __init__(self, groups: float = 1 / 8, ranges: int = 1) -> None:
        """Raises InvalidOptionError for amounts out of range."""
        self.groups = check_share(groups, "the share of groups")
        self.summary = GroupRange(ranges)

    def attend(self, query: Floats, pages: SequencePages) -> AttentionResult:
        shape = pages.shape
        scaled = scaled_heads(query, pages)
        num_full = pages.num_tokens // shape.tokens_per_group
        num_keys, num_values = self._budget(num_full, shape.kv_heads)
        pages.log.enter("summaries")
        heads = [_Head(scaled[head], pages, head) for head in range(shape.kv_heads)]
        pages.log.enter("keys")
        for head, groups in zip(heads, _share_out([head.shares for head in heads], num_keys), strict=True):
            head.read_keys(groups)
        pages.log.enter("values")
        chosen = _share_out([head.shares for head in heads], num_values)
        parts = [head.attend(groups) for head, groups in zip(heads, chosen, strict=True)]
        return AttentionResult(
            np.concatenate([output for output, _ in parts]), np.concatenate([logsumexp for _, logsumexp in parts])
        )

    def _budget(self, num_full: int, kv_heads: int) -> tuple[int, int]:
        """How many pages of K and of V are read of a layer; two of each for every head at least."""
        budget = count_of(self.groups, num_full) * kv_heads
        num_keys = min(round(budget * KEYS_PER_PAGE), num_full * kv_heads)
        least = min(2, num_full) * kv_heads
        return max(num_keys, least), max(2 * budget - num_keys, least)


def _share_out(shares: Sequence[Floats], budget: int) -> list[Indices]:
    """The groups of each head, ascending: the heaviest of all heads together, and each head's first and newest."""
    ranking = np.stack(shares)
    ranking[:, :1] = ranking[:, -1:] = np.inf
    chosen = np.zeros(ranking.size, bool)
    chosen[largest(ranking.ravel(), budget)] = True
    return [np.flatnonzero(of_head) for of_head in chosen.reshape(ranking.shape)]


class _Head:
    """One KV head in one call: first estimates of all full groups, then exact weights of those whose keys were read.

    ``shares`` [groups] of all weight, summed over the query heads; 0 for a group whose keys could have been read and
    were not.
    """

    def __init__(self, scaled: Floats, pages: SequencePages, kv_head: int) -> None:
        """``scaled`` [heads_per_kv, head_dim]."""
        kept = pages.summaries(kv_head).astype(np.float32, copy=False)
        self.scaled = scaled
        self.pages = pages
        self.kv_head = kv_head
        self.terms = group_mass_terms(scaled, kept, pages.shape.tokens_per_group)
        self.mean_values = kept[:, -1]
        # The tokens in memory take part, so that a head that looks at them alone asks for little.
        self.newest = read_scores(scaled, pages, kv_head, in_memory_group(pages)).reshape(len(scaled), -1)
        self._weigh(self.terms[0] + self.terms[1])
        self.shares = weights(self.masses, self.total).sum(axis=0)

    def _weigh(self, masses: Floats) -> None:
        """``masses`` [heads_per_kv, groups] and, of everything, ``total`` [heads_per_kv]: logarithms of weights."""
        self.masses = masses
        self.total = log_sum_exp(np.concatenate([masses, self.newest], axis=1))

    def read_keys(self, groups: Indices) -> None:
        """The spread of the others is scaled, for each query, by least squares over what was read."""
        self.groups = groups
        self.scores = read_scores(self.scaled, self.pages, self.kv_head, groups)
        exact = log_sum_exp(self.scores)
        middle, added = self.terms
        known = added[:, groups]
        power = np.square(known).sum(axis=1)
        missed = ((exact - middle[:, groups]) * known).sum(axis=1)
        scale = np.clip(missed / np.where(power > 0, power, np.float32(1)), 0, MOST_SCALE)
        masses = middle + scale[:, None] * added
        masses[:, groups] = exact
        self._weigh(masses)
        self.shares = np.zeros_like(self.shares)
        self.shares[groups] = weights(exact, self.total).sum(axis=0)

    def attend(self, groups: Indices) -> tuple[Floats, Floats]:
        """Output [heads_per_kv, head_dim] and logsumexp, with the values of ``groups``, whose keys were read."""
        in_memory = read_values(self.pages, self.kv_head, in_memory_group(self.pages))
        output: Floats = weights(self.newest, self.total) @ in_memory.reshape(-1, self.scaled.shape[1])
        values = read_values(self.pages, self.kv_head, groups)
        share = weights(self.scores[:, np.searchsorted(self.groups, groups)], self.total[:, None])
        # [heads_per_kv, groups, head_dim]: each group's part of the output.
        by_group = np.einsum("hgt,gtd->hgd", share, values, optimize=True)
        rest = np.ones(len(self.mean_values), bool)
        rest[groups] = False
        of_rest = weights(self.masses[:, rest], self.total)
        by_means = of_rest @ self.mean_values[rest] + of_rest.sum(axis=1, keepdims=True) * self._missed(
            by_group, share.sum(axis=2), groups
        )
        output += by_group.sum(axis=1) + by_means
        return output, self.total

    def _missed(self, by_group: Floats, share: Floats, groups: Indices) -> Floats:
        """[heads_per_kv, head_dim]: what the mean of V misses per unit of weight, over the groups read but the first.

        The first group holds the tokens that heads look at when they look for nothing: it is like no other.
        """
        means = share[:, 1:] @ self.mean_values[groups[1:]]
        whole = share[:, 1:].sum(axis=1, keepdims=True)
        missed: Floats = (by_group[:, 1:].sum(axis=1) - means) / np.where(whole > 0, whole, np.float32(1))
        return CORRECTION * missed
