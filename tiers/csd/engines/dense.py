"""Exact attention over everything that the drive holds."""

import numpy as np

from tiers.csd.engines.base import AttentionResult, NoSummary
from tiers.csd.engines.products import add_weighted, put_scores
from tiers.csd.engines.read import in_memory_group, scaled_heads
from tiers.csd.pages import Floats, Halves, Indices, SequencePages

_READ_NBYTES = 1 << 19
"""Pages that are asked for in one call: enough that calls cost nothing, and still in the cache after their checksum."""


class DenseEngine:
    """Two passes in float32, as HILOS has them: all scores of a head, then the values under their softmax.

    Query heads that share a KV head meet its pages once.
    """

    summary = NoSummary()

    def attend(self, query: Floats, pages: SequencePages) -> AttentionResult:
        shape = pages.shape
        if not pages.num_tokens:
            return AttentionResult(np.zeros_like(query), np.full(shape.heads, -np.inf, np.float32))
        scaled = scaled_heads(query, pages)
        output = np.zeros_like(scaled)
        total = np.empty(scaled.shape[:2], np.float32)
        reads = _reads(pages)
        for head in range(shape.kv_heads):
            scores = np.empty((shape.heads_per_kv, pages.num_tokens), np.float32)
            for groups, tokens in reads:
                put_scores(_rows(pages.key_groups(head, groups), tokens), scaled[head], scores[:, tokens])
            total[head], whole = _exponentials(scores)
            for groups, tokens in reads:
                add_weighted(_rows(pages.value_groups(head, groups), tokens), scores[:, tokens], output[head])
            output[head] /= whole[:, None]
        return AttentionResult(output.reshape(query.shape), total.reshape(-1))


def _exponentials(scores: Floats) -> tuple[Floats, Floats]:
    """Turn ``scores`` [heads, n] into exp(score - largest); returns their logsumexp and the new sums."""
    most = scores.max(axis=1)
    scores -= most[:, None]
    np.exp(scores, out=scores)
    whole: Floats = scores.sum(axis=1)
    return np.log(whole) + most, whole


def _reads(pages: SequencePages) -> list[tuple[Indices, slice]]:
    """All groups, some at a time, and their tokens; the group that is not full by itself, as it lies elsewhere."""
    per_group = pages.shape.tokens_per_group
    num_full = pages.num_tokens // per_group
    step = max(1, _READ_NBYTES // pages.shape.page_bytes)
    reads = [np.arange(first, min(first + step, num_full)) for first in range(0, num_full, step)]
    if (rest := in_memory_group(pages)).size:
        reads.append(rest)
    return [
        (groups, slice(int(groups[0]) * per_group, min(int(groups[-1] + 1) * per_group, pages.num_tokens)))
        for groups in reads
    ]


def _rows(read: Halves, tokens: slice) -> Halves:
    """[groups, tokens_per_group, head_dim] -> [tokens, head_dim]."""
    return read.reshape(-1, read.shape[-1])[: tokens.stop - tokens.start]
