"""Attention in two steps: all tokens scored by a few channels, and then some of them read."""

from collections.abc import Callable

import numpy as np

from tiers.csd.engines.base import AttentionResult
from tiers.csd.engines.budget import Amount
from tiers.csd.engines.read import scaled_heads
from tiers.csd.pages import Floats, SequencePages
from tiers.errors import InvalidOptionError

Score = Callable[[Floats, SequencePages, int], Floats]
"""Queries [heads_per_kv, head_dim], pages and KV head -> [heads_per_kv, num_tokens]."""

AttendScored = Callable[[Floats, SequencePages, int, Floats], tuple[Floats, Floats]]
"""Scaled queries, pages, KV head and its scores -> output [heads_per_kv, head_dim] and logsumexp."""


def attend_by_channels(
    query: Floats, pages: SequencePages, r: Amount, score: Score, unit: str, attend: AttendScored
) -> AttentionResult:
    """``score`` every KV head by ``r`` channels, then ``attend`` to each, in steps named "channels" and ``unit``.

    ``query`` [heads, head_dim]. Raises InvalidOptionError where ``r`` is larger than the head size.
    """
    shape = pages.shape
    if isinstance(r, int) and r > shape.head_dim:
        raise InvalidOptionError(f"r is {r}; the head has {shape.head_dim} channels")
    if not pages.num_tokens:
        return AttentionResult(np.zeros_like(query), np.full(shape.heads, -np.inf, np.float32))
    queries = query.reshape(shape.kv_heads, shape.heads_per_kv, shape.head_dim)
    pages.log.enter("channels")
    scores = [score(queries[head], pages, head) for head in range(shape.kv_heads)]
    pages.log.enter(unit)
    scaled = scaled_heads(query, pages)
    parts = [attend(scaled[head], pages, head, found) for head, found in enumerate(scores)]
    return AttentionResult(
        np.concatenate([output for output, _ in parts]), np.concatenate([logsumexp for _, logsumexp in parts])
    )
