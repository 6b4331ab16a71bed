"""Sequences in memory and the attention that torch makes of them."""

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

from tiers.csd.engines.base import GroupSummary
from tiers.csd.memory_pages import MemoryPages
from tiers.csd.pages import Floats, Indices, KVShape

Rows = NDArray[np.float32]


def rows(*shape: int, seed: int = 0, clustered: bool = False) -> Rows:
    """[..., tokens, dim] of normal numbers; ``clustered``: neighbours are alike, as the tokens of a text are."""
    drawn = np.random.default_rng(seed).standard_normal(shape, np.float32)
    if clustered:
        topics = np.random.default_rng(seed + 1).standard_normal(
            (*shape[:-2], shape[-2] // 24 + 1, shape[-1]), np.float32
        )
        drawn = 0.5 * drawn + 1.5 * np.repeat(topics, 24, axis=-2)[..., : shape[-2], :]
    return drawn


def pages_of(
    shape: KVShape,
    keys: Rows,
    values: Rows,
    *,
    summary: GroupSummary | None = None,
    channel_order: Indices | None = None,
) -> MemoryPages:
    pages = MemoryPages(shape, summary=summary, channel_order=channel_order)
    pages.append(keys.astype(shape.dtype), values.astype(shape.dtype))
    return pages


def a_shape(kv_heads: int = 3, heads_per_kv: int = 3, head_dim: int = 64, dtype: DTypeLike = np.float32) -> KVShape:
    return KVShape(kv_heads, heads_per_kv, head_dim, dtype)


def by_torch(query: Floats, keys: Rows, values: Rows) -> tuple[Rows, Rows]:
    """Output [heads, dim] and logsumexp [heads], in float32, of query [heads, dim] over [kv_heads, tokens, dim]."""
    heads_per_kv = query.shape[0] // keys.shape[0]
    k, v = (torch.from_numpy(np.repeat(part, heads_per_kv, axis=0).astype(np.float32)) for part in (keys, values))
    q = torch.from_numpy(query).unsqueeze(1)
    output = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    scores = (q @ k.transpose(1, 2)).squeeze(1) * query.shape[1] ** -0.5
    return output.squeeze(1).numpy(), torch.logsumexp(scores, -1).numpy()
