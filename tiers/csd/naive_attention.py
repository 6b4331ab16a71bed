"""Attention over all tokens, the plain way."""

import numpy as np

from tiers.csd.engines.base import AttentionResult, GroupSummary, NoSummary
from tiers.csd.pages import Floats, SequencePages


class NaiveAttention:
    """Reads every page of every head and computes in float32 (and is what better engines are compared with)."""

    summary: GroupSummary = NoSummary()

    def attend(self, query: Floats, pages: SequencePages) -> AttentionResult:
        shape, n = pages.shape, pages.num_tokens
        output = np.zeros(query.shape, np.float32)
        logsumexp = np.full(len(query), -np.inf, np.float32)
        if n == 0:
            return AttentionResult(output, logsumexp)
        groups = np.arange(shape.num_groups(n))
        for head in range(shape.kv_heads):
            mine = slice(head * shape.heads_per_kv, (head + 1) * shape.heads_per_kv)
            keys = pages.key_groups(head, groups).reshape(-1, shape.head_dim)[:n].astype(np.float32)
            values = pages.value_groups(head, groups).reshape(-1, shape.head_dim)[:n].astype(np.float32)
            scores = query[mine] @ keys.T / np.float32(np.sqrt(shape.head_dim))
            most = scores.max(axis=1, keepdims=True)
            weights = np.exp(scores - most)
            total = weights.sum(axis=1, keepdims=True)
            output[mine] = weights @ values / total
            logsumexp[mine] = (most + np.log(total))[:, 0]
        return AttentionResult(output, logsumexp)
