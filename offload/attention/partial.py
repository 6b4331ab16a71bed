"""Attention over a part of the keys, and how parts are put together.

A part returns its output and the logsumexp of its scores; that is all it takes to merge it with other parts exactly
(online softmax: Milakov and Gimelshein, 2018; the merge of FlashDecoding, Dao et al., 2023). It is also what a drive
that computes attention will return.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from offload.attention.kernels import flash_of_groups, kernel_for


@dataclass(frozen=True, slots=True)
class PartialAttention:
    """``output`` [heads, queries, value_dim] in the model's dtype or float32.

    ``logsumexp`` [heads, queries] of the scores, in float32.
    """

    output: Tensor
    logsumexp: Tensor

    def to(self, device: torch.device | str) -> "PartialAttention":
        """In the memory of a device."""
        return PartialAttention(self.output.to(device), self.logsumexp.to(device))

    @classmethod
    def of_nothing(cls, query: Tensor, value_dim: int) -> "PartialAttention":
        """For queries [heads, queries, dim] that see no key."""
        logsumexp = query.new_full(query.shape[:2], -torch.inf, dtype=torch.float32)
        return cls(query.new_zeros(*query.shape[:2], value_dim), logsumexp)

    @classmethod
    def side_by_side(cls, parts: Sequence["PartialAttention"]) -> "PartialAttention":
        """Queries that follow each other, with what each of them saw."""
        if len(parts) == 1:
            return parts[0]
        return cls(torch.cat([part.output for part in parts], 1), torch.cat([part.logsumexp for part in parts], 1))


def attend_all(query: Tensor, keys: Tensor, values: Tensor, scale: float) -> PartialAttention:
    """Every query sees every key.

    query [heads, queries, dim]; keys [tokens, kv_heads, dim] and values [tokens, kv_heads, value_dim], any strides.
    """
    if (found := flash_of_groups(query, keys, values, scale, is_causal=False)) is not None:
        return PartialAttention(*found)
    _, kv_heads, value_dim = values.shape
    if query.shape[-1] != value_dim:
        query, keys, values = _of_one_width(query, keys, values)
    heads, queries, dim = query.shape
    # Query heads that share a KV head are folded into the query axis: the keys are read once for all of them.
    folded = query.reshape(kv_heads, 1, heads // kv_heads * queries, dim)
    output, logsumexp = _attend(folded, _by_head(keys), _by_head(values), scale, is_causal=False, mask=None)
    return _part(output, logsumexp, heads, queries, value_dim)


def attend_causal(query: Tensor, keys: Tensor, values: Tensor, scale: float) -> PartialAttention:
    """As many keys as queries; query i sees key j where j <= i."""
    if (found := flash_of_groups(query, keys, values, scale, is_causal=True)) is not None:
        return PartialAttention(*found)
    return _attend_by_query(query, keys, values, scale, None)


def attend_masked(query: Tensor, keys: Tensor, values: Tensor, scale: float, mask: Tensor) -> PartialAttention:
    """Query i sees key j where ``mask[i, j]`` is true."""
    return _attend_by_query(query, keys, values, scale, mask)


def merge(parts: Sequence[PartialAttention]) -> PartialAttention:
    """The attention over the union of the parts' keys, which must be disjoint, in float32 where there are several.

    Rows that saw no key are zero.
    """
    if len(parts) == 1:
        return parts[0]
    scores = torch.stack([part.logsumexp for part in parts])
    total = torch.logsumexp(scores, dim=0)
    # A row of a part without any visible key has logsumexp -inf and an undefined output: its weight must be 0, not NaN.
    weights = torch.exp(scores - total.masked_fill(total == -torch.inf, 0.0)).unsqueeze(-1)
    output = torch.zeros_like(parts[0].output, dtype=torch.float32)
    for part, weight in zip(parts, weights, strict=True):
        output.add_(torch.where(weight > 0, part.output * weight, 0.0))
    return PartialAttention(output, total)


def merge_some(all_rows: PartialAttention, rows: Sequence[int], some: PartialAttention) -> PartialAttention:
    """``all_rows`` [rows, heads, ...] with ``some``, which has a part for each of ``rows``; see ``merge``."""
    if len(rows) == all_rows.output.shape[0]:
        return merge([all_rows, some])
    chosen = list(rows)
    both = merge([PartialAttention(all_rows.output[chosen], all_rows.logsumexp[chosen]), some])
    output, logsumexp = all_rows.output.clone(), all_rows.logsumexp.clone()
    output[chosen], logsumexp[chosen] = both.output.to(output), both.logsumexp
    return PartialAttention(output, logsumexp)


def add_sink(part: PartialAttention, sink: Tensor) -> PartialAttention:
    """Attention sinks as gpt-oss has them: one more score per head ([heads]) that takes weight and gives no value."""
    sink = sink.float().reshape(-1, 1)
    total = torch.logaddexp(part.logsumexp, sink.expand_as(part.logsumexp))
    weight = torch.exp(part.logsumexp - total).unsqueeze(-1)
    return PartialAttention(part.output * weight, total)


def _attend_by_query(
    query: Tensor, keys: Tensor, values: Tensor, scale: float, mask: Tensor | None
) -> PartialAttention:
    value_dim = values.shape[-1]
    query, keys, values = _of_one_width(query, keys, values)
    heads, queries, dim = query.shape
    kv_heads = keys.shape[1]
    grouped = query.reshape(kv_heads, heads // kv_heads, queries, dim)
    shape = (kv_heads, heads // kv_heads, keys.shape[0], -1)
    output, logsumexp = _attend(
        grouped, _by_head(keys).expand(shape), _by_head(values).expand(shape), scale, is_causal=mask is None, mask=mask
    )
    return _part(output, logsumexp, heads, queries, value_dim)


def _part(output: Tensor, logsumexp: Tensor, heads: int, queries: int, value_dim: int) -> PartialAttention:
    """Out of the shapes of the kernel."""
    width = output.shape[-1]
    output = output.reshape(heads, queries, width)
    return PartialAttention(output[..., :value_dim] if value_dim < width else output, logsumexp.reshape(heads, queries))


def _of_one_width(query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What is narrower than the others, with zeros at its end: the kernel knows one width."""
    width = max(query.shape[-1], values.shape[-1])
    if query.shape[-1] < width:
        query, keys = (functional.pad(tensor, (0, width - tensor.shape[-1])) for tensor in (query, keys))
    if values.shape[-1] < width:
        values = functional.pad(values, (0, width - values.shape[-1]))
    return query, keys, values


def _by_head(tokens: Tensor) -> Tensor:
    """[tokens, kv_heads, dim] seen as [kv_heads, 1, tokens, dim], without a copy."""
    return tokens.permute(1, 0, 2).unsqueeze(1)


def _attend(
    query: Tensor, keys: Tensor, values: Tensor, scale: float, *, is_causal: bool, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    kernel = kernel_for(query, masked=mask is not None)
    # Without queries or keys kernels divide by zero and take the process with them.
    if kernel is None or not (query.shape[2] and keys.shape[2]):
        return attend_by_definition(query, keys, values, scale, is_causal=is_causal, mask=mask)
    output, logsumexp = kernel(query, keys, values, scale, is_causal, mask)
    if mask is not None:
        logsumexp = logsumexp.masked_fill(~mask.any(-1), -torch.inf)
    return output, logsumexp


def attend_by_definition(
    query: Tensor, keys: Tensor, values: Tensor, scale: float, *, is_causal: bool, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Where there is no kernel that returns the logsumexp; also the oracle of the tests."""
    scores = torch.matmul(query.float(), keys.float().transpose(-1, -2)) * scale
    if is_causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    logsumexp = torch.logsumexp(scores, dim=-1)
    weights = torch.exp(scores - logsumexp.masked_fill(logsumexp == -torch.inf, 0.0).unsqueeze(-1))
    return torch.matmul(weights, values.float()).to(query.dtype), logsumexp
