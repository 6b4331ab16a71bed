"""SparF, as InstAttention specifies it: SparQ on pages of flash (HPCA 2025, algorithm 1)."""

import numpy as np

from tiers.csd.engines.base import AttentionResult, NoSummary
from tiers.csd.engines.budget import Amount, check_amount, count_of
from tiers.csd.engines.by_channels import attend_by_channels
from tiers.csd.engines.channels import approximate_scores, top_channels
from tiers.csd.engines.read import largest, read_scores, read_values
from tiers.csd.engines.softmax import log_sum_exp, softmax, weights
from tiers.csd.pages import Floats, Indices, SequencePages
from tiers.errors import InvalidOptionError

LEAST_SHARE = np.float32(1e-6)
"""Of the weight that the chosen tokens are taken to have: what was read must not vanish when parts are merged."""


class SparFEngine:
    """Chooses tokens by approximate scores, reads every page that holds one of them, and uses only them.

    ``r`` channels of the queries; ``k`` tokens and the newest one besides, which is free. The ``local_k`` before it (a
    quarter of ``k`` where it is not given, as in SparQ's examples) are among the ``k``. What was not chosen counts as
    the mean of V, with the weight that the approximate scores give it.

    The logsumexp stands for all tokens: that of the chosen ones' exact scores, less the logarithm of the share alpha of
    the whole weight that the approximate scores give to them. Merged with other parts, the chosen tokens so keep their
    exact weight.
    """

    summary = NoSummary()

    def __init__(self, r: Amount = 1 / 8, k: Amount = 1 / 8, local_k: int | None = None) -> None:
        """Raises InvalidOptionError for amounts out of range."""
        check_amount(r, "r")
        check_amount(k, "k")
        if local_k is not None and (local_k < 0 or (isinstance(k, int) and local_k > k)):
            raise InvalidOptionError(f"local_k is {local_k}; it has to be between 0 and k, which is {k}")
        self.r = r
        self.k = k
        self.local_k = local_k

    def attend(self, query: Floats, pages: SequencePages) -> AttentionResult:
        """Raises InvalidOptionError where ``r`` is larger than the head size."""
        return attend_by_channels(query, pages, self.r, self._approximate, "tokens", self._attend)

    def choose(self, approximate: Floats) -> Indices:
        """The tokens to attend to, ascending, from approximate scores [heads_per_kv, num_tokens]."""
        num_tokens = approximate.shape[1]
        k = count_of(self.k, num_tokens)
        local_k = k // 4 if self.local_k is None else min(self.local_k, k)
        ranking = approximate.sum(axis=0)
        ranking[max(0, num_tokens - local_k - 1) :] = np.inf
        return largest(ranking, k + 1)

    def _approximate(self, queries: Floats, pages: SequencePages, head: int) -> Floats:
        channels = top_channels(queries, count_of(self.r, pages.shape.head_dim))
        return approximate_scores(queries, pages, head, channels)

    def _attend(self, scaled: Floats, pages: SequencePages, head: int, approximate: Floats) -> tuple[Floats, Floats]:
        """Of one KV head: pages without a chosen token are skipped, then the other tokens dropped."""
        tokens = self.choose(approximate)
        groups, rows = np.unique(tokens // pages.shape.tokens_per_group, return_inverse=True)
        columns = tokens % pages.shape.tokens_per_group
        scores = read_scores(scaled, pages, head, groups)[:, rows, columns]
        values = read_values(pages, head, groups)[rows, columns]
        alpha = softmax(approximate)[:, tokens].sum(axis=1)
        return reallocate(scores, values, alpha, pages.value_sum(head) / np.float32(pages.num_tokens))


def reallocate(scores: Floats, values: Floats, alpha: Floats, mean_value: Floats) -> tuple[Floats, Floats]:
    """Attention over what was read, with the rest of the weight on the mean of V: output and logsumexp.

    ``scores`` [heads_per_kv, n], ``values`` [n, head_dim], ``alpha`` [heads_per_kv] the share of what was read.
    """
    total = log_sum_exp(scores)
    share = alpha[:, None]
    output: Floats = share * (weights(scores, total) @ values) + (1 - share) * mean_value
    return output, total - np.log(np.maximum(alpha, LEAST_SHARE))
