"""Groups that an engine chose, read and scored."""

import numpy as np

from tiers.csd.engines.widen import widen
from tiers.csd.pages import Floats, Halves, Indices, SequencePages


def scaled_heads(query: Floats, pages: SequencePages) -> Floats:
    """``query`` [heads, head_dim] over sqrt(head_dim), by KV head: [kv_heads, heads_per_kv, head_dim]."""
    shape = pages.shape
    return (query * np.float32(shape.head_dim**-0.5)).reshape(shape.kv_heads, shape.heads_per_kv, shape.head_dim)


def read_scores(scaled: Floats, pages: SequencePages, kv_head: int, groups: Indices) -> Floats:
    """Exact scores of one KV head, [heads_per_kv, groups, tokens_per_group]; -inf where a group has no token yet."""
    keys = _widened(pages.key_groups(kv_head, groups))
    scores: Floats = np.matmul(keys, scaled.T).transpose(2, 0, 1)
    scores[:, _token_numbers(pages, groups) >= pages.num_tokens] = -np.inf
    return scores


def read_values(pages: SequencePages, kv_head: int, groups: Indices) -> Floats:
    """[groups, tokens_per_group, head_dim]; zeros where a group has no token yet."""
    return _widened(pages.value_groups(kv_head, groups))


def _widened(rows: Halves) -> Floats:
    return widen(rows, np.empty((rows.size // rows.shape[-1], rows.shape[-1]), np.float32)).reshape(rows.shape)


def _token_numbers(pages: SequencePages, groups: Indices) -> Indices:
    per_group = pages.shape.tokens_per_group
    return groups[:, None] * per_group + np.arange(per_group)


def in_memory_group(pages: SequencePages) -> Indices:
    """The group that is not full yet, if there is one: it is read at no cost, so every engine reads it."""
    full, rest = divmod(pages.num_tokens, pages.shape.tokens_per_group)
    return np.arange(full, full + bool(rest))


def largest(values: Floats, count: int) -> Indices:
    """Where the ``count`` largest of [n] are, ascending."""
    if count >= values.size:
        return np.arange(values.size)
    return np.sort(np.argpartition(values, values.size - count)[values.size - count :])
