"""Attention of one query to many runs of an arena in one launch, split over the runs (FlashDecoding, Dao et al., 2023).

Imported where it is used only: Triton comes with torch on some machines and not on others.
"""

from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS = 16
"""Query heads of a program, the fewest that tensor cores take; more in one would not stay in registers."""
_HALVES_NBYTES, _FLOATS_NBYTES = 32 * 1024, 16 * 1024
"""Of keys and values that a step of the loop reads. Two steps are under way from compute capability 8.0 on, where a
program gets 99 KiB of shared memory at least, and one before, where it gets 64. Products of float32 are made in
registers, of which there are not enough for more."""


def attend_pieces(query: Tensor, keys: Tensor, values: Tensor, pieces: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """What the query of each row makes of each of its pieces alone.

    query [rows, heads, dim], contiguous; keys [tokens, kv_heads, dim] and values alike, whose rows are contiguous;
    pieces int64 [rows, pieces, 2], contiguous, first token and the one after the last -> outputs
    [rows, pieces, heads, value_dim] and logsumexps [rows, pieces, heads] in float32. Of a piece without tokens, which
    may end before it begins, they are 0 and -inf; nothing outside of the pieces is read.
    """
    (rows, heads, dim), (_, kv_heads, value_dim) = query.shape, values.shape
    group, count = heads // kv_heads, pieces.shape[1]
    outputs = query.new_empty(rows, count, heads, value_dim, dtype=torch.float32)
    logsumexps = query.new_empty(rows, count, heads, dtype=torch.float32)
    sizes = sizes_for(query.dtype, group, dim, value_dim)
    if not query.is_cuda:  # a processor comes here to interpret the kernel only, and knows no product of bfloat16
        sizes["DOT"] = tl.float32
    with torch.cuda.device(query.device) if query.is_cuda else nullcontext():
        _attend[rows * count, kv_heads, triton.cdiv(group, _ROWS)](
            query, keys, values, pieces, outputs, logsumexps,
            scale, count, heads, dim, value_dim, keys.stride(0), keys.stride(1), values.stride(0), values.stride(1),
            **sizes,
        )  # fmt: skip
    return outputs, logsumexps


def sizes_for(dtype: torch.dtype, group: int, dim: int, value_dim: int) -> dict[str, Any]:
    """What the kernel is compiled for: a block of keys and values that every GPU has the shared memory for."""
    dot = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}.get(dtype, tl.float32)
    width, value_width = (max(16, triton.next_power_of_2(size)) for size in (dim, value_dim))
    most, nbytes = (32, _FLOATS_NBYTES) if dot is tl.float32 else (64, _HALVES_NBYTES)
    # A product takes 16 at least; of what is no power of two, the tokens that make it one are not there.
    block = max(16, min(most, nbytes // triton.next_power_of_2((width + value_width) * dtype.itemsize)))
    return {"GROUP": group, "ROWS": _ROWS, "WIDTH": width, "VALUE_WIDTH": value_width, "BLOCK": block, "DOT": dot}


@triton.jit
def _attend(
    query, keys, values, pieces, outputs, logsumexps,
    scale, count, heads, dim, value_dim, key_stride, key_head_stride, value_stride, value_head_stride,
    GROUP: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """A piece (axis 0) of the ``count`` of its row, for ROWS (axis 2) of the GROUP query heads of a KV head (axis 1).

    By an online softmax.
    """
    piece, kv_head = tl.program_id(0), tl.program_id(1)
    start, stop = tl.load(pieces + 2 * piece), tl.load(pieces + 2 * piece + 1)
    row = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    is_row = row < GROUP
    head = kv_head * GROUP + row
    column, value_column = tl.arange(0, WIDTH), tl.arange(0, VALUE_WIDTH)
    is_column, is_value = column < dim, value_column < value_dim
    asked = tl.load(
        query + (piece // count * heads + head[:, None]) * dim + column[None, :],
        mask=is_row[:, None] & is_column[None, :],
        other=0.0,
    ).to(DOT)
    highest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    sums = tl.zeros((ROWS, VALUE_WIDTH), tl.float32)
    for first in range(start, stop, BLOCK):
        token = first + tl.arange(0, BLOCK)
        inside = token < stop
        place = keys + kv_head * key_head_stride + token[None, :] * key_stride + column[:, None]
        key = tl.load(place, mask=inside[None, :] & is_column[:, None], other=0.0).to(DOT)
        scores = tl.dot(asked, key, input_precision="ieee") * scale
        scores = tl.where(inside[None, :], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        fade = tl.exp(highest - higher)
        place = values + kv_head * value_head_stride + token[:, None] * value_stride + value_column[None, :]
        value = tl.load(place, mask=inside[:, None] & is_value[None, :], other=0.0).to(DOT)
        sums = sums * fade[:, None] + tl.dot(weights.to(DOT), value, input_precision="ieee")
        total = total * fade + tl.sum(weights, 1)
        highest = higher
    total = tl.where(total > 0, total, 1.0)  # of an empty piece it is 0, and the highest score -inf
    place = piece * heads + head
    tl.store(logsumexps + place, highest + tl.log(total), mask=is_row)
    target = outputs + place[:, None] * value_dim + value_column[None, :]
    tl.store(target, sums / total[:, None], mask=is_row[:, None] & is_value[None, :])
