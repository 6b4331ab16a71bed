"""How keys and values of one sequence are cut into pages, and put back together. Pure functions of arrays."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tiers.csd.pages import Halves, Indices, KVShape
from tiers.errors import InvalidOptionError

_FEWEST_CHANNELS, _MOST_CHANNELS = 2, 8

Bytes = NDArray[np.uint8]


def shape_of(
    *, kv_heads: int, heads_per_kv: int, head_dim: int, dtype: DTypeLike, page_nbytes: int, max_tokens: int
) -> KVShape:
    """The shape whose pages are exactly ``page_nbytes``: 16 tokens of 128 channels in half precision make 4 KiB.

    Two to eight channels share a page of the channel index, as few as make a page cover a quarter of ``max_tokens``:
    few channels a page waste little of it on channels that nobody asked for, many let a page fill (and leave the
    drive's memory) before a short context ends. InvalidOptionError where a page does not hold a whole number of tokens.
    """
    token_nbytes = head_dim * np.dtype(dtype).itemsize
    if head_dim < 1 or page_nbytes % token_nbytes:
        raise InvalidOptionError(
            f"head size {head_dim} in {np.dtype(dtype)}: {token_nbytes} bytes a token do not divide a flash page of "
            f"{page_nbytes}; choose another page size or precision"
        )
    tokens_per_group = page_nbytes // token_nbytes
    return KVShape(
        kv_heads=kv_heads,
        heads_per_kv=heads_per_kv,
        head_dim=head_dim,
        dtype=np.dtype(dtype),
        tokens_per_group=tokens_per_group,
        channels_per_page=_channels_per_page(head_dim, tokens_per_group, max_tokens),
    )


def _channels_per_page(head_dim: int, tokens_per_group: int, max_tokens: int) -> int:
    """The smallest divisor of the head size from 2 to 8 with which four pages of a channel fit in the context."""
    divisors = [c for c in range(_FEWEST_CHANNELS, _MOST_CHANNELS + 1) if head_dim % c == 0]
    if not divisors:
        raise InvalidOptionError(
            f"head size {head_dim} has no divisor from {_FEWEST_CHANNELS} to {_MOST_CHANNELS}; "
            "keep one copy of the keys instead of two"
        )
    for channels in divisors:
        if tokens_per_group * (head_dim // channels) * 4 <= max_tokens:
            return channels
    return divisors[-1]


def group_pages(shape: KVShape, rows: Halves) -> Bytes:
    """``rows`` [heads, n * tokens_per_group, head_dim] -> bytes [heads, n, page_nbytes]."""
    heads, tokens, _ = rows.shape
    return _as_bytes(rows, (heads, tokens // shape.tokens_per_group, shape.page_bytes))


def channel_pages(shape: KVShape, keys: Halves, order: Indices | None = None) -> Bytes:
    """``keys`` [heads, n * tokens_per_span, head_dim] -> bytes [heads, n * pages_per_span, page_nbytes], transposed.

    ``order`` [heads, head_dim]: the channel in each slot; as they come if there is none.
    """
    heads, tokens, head_dim = keys.shape
    spans = tokens // shape.tokens_per_span
    by_channel = keys.reshape(heads, spans, shape.tokens_per_span, head_dim).transpose(0, 1, 3, 2)
    if order is not None:
        by_channel = np.take_along_axis(by_channel, order[:, None, :, None], axis=2)
    return _as_bytes(by_channel, (heads, spans * shape.pages_per_span, shape.page_bytes))


def groups_in(shape: KVShape, pages: Bytes) -> Halves:
    """bytes [n, page_nbytes] -> [n, tokens_per_group, head_dim]; a view where the bytes lie together."""
    return pages.view(np.dtype(shape.dtype)).reshape(-1, shape.tokens_per_group, shape.head_dim)


def channels_in(shape: KVShape, pages: Bytes) -> Halves:
    """bytes [n, page_nbytes] of the channel index -> [n, channels_per_page, tokens_per_span]."""
    return pages.view(np.dtype(shape.dtype)).reshape(-1, shape.channels_per_page, shape.tokens_per_span)


def _as_bytes(array: NDArray[Any], shape: tuple[int, ...]) -> Bytes:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(shape)
