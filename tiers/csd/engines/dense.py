"""Exact attention over everything that the drive holds."""

from collections.abc import Iterator

import numpy as np

from tiers.csd.engines.base import AttentionResult, NoSummary
from tiers.csd.engines.softmax import log_sum_exp, weights
from tiers.csd.engines.widen import widen
from tiers.csd.pages import Floats, Indices, SequencePages

_ROWS = 1024
"""Tokens at a time: as float32 they stay in a core's cache between the widening and the product."""


class DenseEngine:
    """Two passes in float32, as HILOS has them: all scores of a head, then the values under their softmax.

    Query heads that share a KV head meet its pages once, in one matrix product.
    """

    summary = NoSummary()

    def attend(self, query: Floats, pages: SequencePages) -> AttentionResult:
        shape = pages.shape
        scaled = (query * np.float32(shape.head_dim**-0.5)).reshape(shape.kv_heads, shape.heads_per_kv, -1)
        output = np.zeros_like(scaled)
        total = np.empty(scaled.shape[:2], np.float32)
        scratch = np.empty((_ROWS + shape.tokens_per_group, shape.head_dim), np.float32)
        for head in range(shape.kv_heads):
            scores = np.empty((shape.heads_per_kv, pages.num_tokens), np.float32)
            for groups, tokens in _stretches(pages):
                keys = widen(pages.key_groups(head, groups), scratch)[: tokens.stop - tokens.start]
                # Rows of keys times columns of queries: the product that streams the keys in their order.
                scores[:, tokens] = (keys @ scaled[head].T).T
            total[head] = log_sum_exp(scores)
            share = weights(scores, total[head])
            for groups, tokens in _stretches(pages):
                values = widen(pages.value_groups(head, groups), scratch)[: tokens.stop - tokens.start]
                output[head] += share[:, tokens] @ values
        return AttentionResult(output.reshape(query.shape), total.reshape(-1))


def _stretches(pages: SequencePages) -> Iterator[tuple[Indices, slice]]:
    """All groups, some at a time, with the tokens that they hold."""
    per_group = pages.shape.tokens_per_group
    step = max(1, _ROWS // per_group)
    last = pages.shape.num_groups(pages.num_tokens)
    for first in range(0, last, step):
        groups = np.arange(first, min(first + step, last))
        yield groups, slice(first * per_group, min(int(groups[-1] + 1) * per_group, pages.num_tokens))
