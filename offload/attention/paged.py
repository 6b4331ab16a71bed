"""Attention of one query to blocks wherever they lie: in one launch for all that are there, without gathering them."""

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offload.attention.partial import PartialAttention, attend_all
from offload.closeness import relative_error
from offload.copies import on_device
from tiers.proven import Proven

AttendPieces = Callable[[Tensor, Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
"""See ``attend_pieces``."""
Runs = Sequence[tuple[int, int]]
"""First token in the arena, and the one after the last."""

_PIECE_TOKENS = 256
"""Small enough that a few thousand tokens keep all multiprocessors busy; longer where there would be many of them."""
_MOST_PIECES = 512
"""About: each keeps an output of its own until they are merged."""
_WIDEST = 256
"""Of a head; latents are wider."""
_CLOSE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 2e-2}
"""Largest root mean square error, relative to the result."""

NO_KERNEL: Proven[AttendPieces] = Proven(None)


def kernel_for_runs(query: Tensor, keys: Tensor, values: Tensor) -> Proven[AttendPieces]:
    """A kernel for one query to many runs that is right on this device; without one each run takes its own.

    query [heads, queries, dim]; keys [tokens, kv_heads, dim] and values alike.
    """
    (heads, queries, dim), kv_heads, value_dim = query.shape, keys.shape[1], values.shape[2]
    if not query.is_cuda or queries != 1 or max(dim, value_dim) > _WIDEST:
        return NO_KERNEL
    return _proven(query.device, query.dtype, heads, kv_heads, dim, value_dim)


def attend_runs(
    kernel: AttendPieces, query: Tensor, keys: Tensor, values: Tensor, runs: Runs, scale: float
) -> PartialAttention:
    """The query sees every key of the runs, of which no two overlap and none is empty.

    query [heads, 1, dim]; keys [tokens, kv_heads, dim] and values alike, all that there are. One launch of ``kernel``
    and a few to merge all pieces at once; always in the same order.
    """
    pieces = on_device(cut(runs), query.device)
    outputs, logsumexps = kernel(query.transpose(0, 1).contiguous(), keys, values, pieces.unsqueeze(0), scale)
    return PartialAttention(merge_pieces(outputs, logsumexps)[0].unsqueeze(1), logsumexps[0].logsumexp(0).unsqueeze(1))


def merge_pieces(outputs: Tensor, logsumexps: Tensor) -> Tensor:
    """What the rows' queries see in all of their pieces, [rows, heads, value_dim]; some token in one of them at least.

    outputs [rows, pieces, heads, value_dim], logsumexps [rows, pieces, heads].
    """
    return (outputs * logsumexps.softmax(1).unsqueeze(-1)).sum(1)


def piece_tokens(num_tokens: int) -> int:
    """How long pieces are where a row sees so many tokens."""
    return max(_PIECE_TOKENS, num_tokens // _MOST_PIECES)


def cut(runs: Runs) -> NDArray[np.int64]:
    """Pieces of the runs, [pieces, 2], of a limited length."""
    size = piece_tokens(sum(stop - start for start, stop in runs))
    pieces = [(first, min(first + size, stop)) for start, stop in runs for first in range(start, stop, size)]
    return np.array(pieces, np.int64)


@cache
def _proven(
    device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, dim: int, value_dim: int
) -> Proven[AttendPieces]:
    """The kernel, once it has proved to be right for such heads."""
    try:
        from offload.attention.paged_kernel import attend_pieces

        generator = torch.Generator().manual_seed(heads)
        query = torch.randn(2, heads, dim, generator=generator).to(device, dtype)
        rows = torch.randn(700, kv_heads, dim + value_dim, generator=generator).to(device, dtype)
        keys, values = rows.split((dim, value_dim), -1)
        runs = [(3, 4), (10, 330), (400, 700)]
        pieces = np.concatenate([cut(runs), [[9, 7]]])  # the last of them is empty
        both = on_device(np.stack([pieces, pieces[::-1]]), device)
        outputs, logsumexps = attend_pieces(query, keys, values, both, dim**-0.5)
        found = merge_pieces(outputs, logsumexps), logsumexps.logsumexp(1)
        # By the processor, whose products of float32 are that exact whatever the settings of the device.
        every = torch.cat([rows[start:stop] for start, stop in runs]).float().cpu()
        asked = query.transpose(0, 1).float().cpu()
        expected = attend_all(asked, every[..., :dim], every[..., dim:], dim**-0.5)
        errors = [
            relative_error(one.cpu(), other.transpose(0, 1))
            for one, other in zip(found, (expected.output, expected.logsumexp), strict=True)
        ]
    except torch.OutOfMemoryError:
        raise  # says nothing of the kernel: it is tried out again when there is memory
    except Exception as error:  # noqa: BLE001 - whatever it is, there are slower ways
        return Proven.failed(error)
    if max(errors) < _CLOSE.get(dtype, 0.0):
        return Proven(attend_pieces)
    return Proven(None, f"its kernel computes something else here (relative error {max(errors):.1g})")
