"""Attention where not every query sees every key: windows, padding, and keys that come after their query."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from offload.attention.partial import PartialAttention, attend_all, attend_causal, attend_masked

_STRETCH = 256
"""Queries at a time: a mask of all queries and all keys of a long prompt would be larger than the model."""


@dataclass(frozen=True, slots=True, eq=False)
class QueryMask:
    """What the queries at positions ``start ..`` of a sequence see: keys at or before their own position.

    Of these, the last ``window`` ones if there is one, and where ``visible`` [tokens of the sequence] is true.
    """

    start: int
    window: int | None = None
    visible: Tensor | None = None

    def sees_all(self, queries: int, position: int, tokens: int) -> bool:
        """Whether each query sees each of the keys from ``position`` on."""
        if position + tokens - 1 > self.start:
            return False
        if self.window is not None and self.start + queries - 1 - position >= self.window:
            return False
        return self.visible is None or bool(self.visible[position : position + tokens].all())

    def is_plain(self, queries: int, position: int, tokens: int) -> bool:
        """Whether the keys are those of the queries themselves and nothing but their order hides one."""
        return (
            position == self.start
            and tokens == queries
            and (self.window is None or tokens <= self.window)
            and (self.visible is None or bool(self.visible[position : position + tokens].all()))
        )

    def reach(self, first: int, last: int, position: int, tokens: int) -> tuple[int, int]:
        """The range of the keys, counted from ``position``, that queries ``first .. last - 1`` may see."""
        oldest = 0 if self.window is None else self.start + first - self.window + 1 - position
        return max(0, oldest), min(tokens, self.start + last - position)

    def bits(self, first: int, last: int, position: int, tokens: int, device: torch.device | None = None) -> Tensor:
        """[queries, tokens], true where query ``first + i`` sees the key at ``position + j``."""
        keys = torch.arange(position, position + tokens, device=device)
        queries = torch.arange(self.start + first, self.start + last, device=device).unsqueeze(1)
        seen = keys <= queries
        if self.window is not None:
            seen &= queries - keys < self.window
        if self.visible is not None:
            seen &= self.visible[position : position + tokens]
        return seen


def attend_visible(
    query: Tensor, keys: Tensor, values: Tensor, scale: float, mask: QueryMask, position: int
) -> PartialAttention:
    """Attention through a mask to the keys from ``position`` on.

    query [heads, queries, dim]; keys [tokens, kv_heads, dim] and values alike.
    """
    queries, tokens = query.shape[1], keys.shape[0]
    if mask.sees_all(queries, position, tokens):
        return attend_all(query, keys, values, scale)
    if mask.is_plain(queries, position, tokens):
        return attend_causal(query, keys, values, scale)
    parts = []
    for first in range(0, queries, _STRETCH):
        last = min(first + _STRETCH, queries)
        begin, end = mask.reach(first, last, position, tokens)
        some = query[:, first:last]
        if begin < end:
            bits = mask.bits(first, last, position + begin, end - begin, query.device)
            parts.append(attend_masked(some, keys[begin:end], values[begin:end], scale, bits))
        else:
            parts.append(PartialAttention.of_nothing(some, values.shape[-1]))
    return PartialAttention.side_by_side(parts)


def attend_new(
    query: Tensor, key: Tensor, value: Tensor, mask: QueryMask, begin: int, scale: float
) -> PartialAttention:
    """Keys that came with the queries; those of both that stand before position ``begin`` are padding."""
    queries = query.shape[1]
    padded = min(max(begin - mask.start, 0), queries)
    nothing = PartialAttention.of_nothing(query[:, :padded], value.shape[-1])
    if padded == queries:
        return nothing
    keys, values = key[:, padded:].transpose(0, 1), value[:, padded:].transpose(0, 1)
    mask = replace(mask, start=mask.start + padded)
    part = attend_visible(query[:, padded:], keys, values, scale, mask, mask.start)
    return PartialAttention.side_by_side([nothing, part]) if padded else part
