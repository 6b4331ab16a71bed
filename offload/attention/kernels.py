"""The kernels behind scaled_dot_product_attention: called by name, since only then do they tell the logsumexp."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from offload.closeness import relative_error

Kernel = Callable[[Tensor, Tensor, Tensor, float, bool, Tensor | None], tuple[Tensor, Tensor]]
"""Queries, keys and values [batch, heads, tokens, dim], scale, whether query i sees keys up to i only, mask [queries,
keys] of what is seen -> output in their type and shape, logsumexp [batch, heads, queries] in float32."""

_aten = torch.ops.aten
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_HALVES = (torch.bfloat16, torch.float16)
_CLOSE = {torch.float32: 5e-3, torch.float16: 5e-3, torch.bfloat16: 2e-2}
"""Largest root mean square error, relative to the result; matrix products may be in TF32."""
_WIDEST = 256
"""Of a head, for the flash kernel of CUDA."""


def kernel_for(query: Tensor, *, masked: bool) -> Kernel | None:
    """The best kernel for such queries; None where torch has none that tells the logsumexp."""
    if query.is_cpu:
        return _flash_on_cpu if query.dtype in _FLOATS else None
    if not query.is_cuda or masked or query.dtype not in _FLOATS or not _has_efficient(query.device, query.dtype):
        return None
    return _efficient_on_cuda


def flash_of_groups(
    query: Tensor, keys: Tensor, values: Tensor, scale: float, *, is_causal: bool
) -> tuple[Tensor, Tensor] | None:
    """CUDA's flash kernel, which knows by itself which heads share keys; None where it does not apply.

    query [heads, queries, dim], keys [tokens, kv_heads, dim] and values alike -> output [heads, queries, dim],
    logsumexp [heads, queries].
    """
    if not query.is_cuda:
        return None
    dim = query.shape[-1]
    fits = query.dtype in _HALVES and dim <= _WIDEST and dim % 8 == 0 and values.shape[-1] == dim
    if not (fits and query.shape[1] and keys.shape[0] and _has_flash(query.device)):
        return None
    by_head = (tokens.transpose(0, 1).unsqueeze(0) for tokens in (keys, values))
    kernel = _aten._scaled_dot_product_flash_attention.default  # noqa: SLF001
    output, logsumexp = kernel(query.unsqueeze(0), *by_head, 0.0, is_causal, False, scale=scale)[:2]
    return output[0], logsumexp[0]


@cache
def _has_flash(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


@cache
def _has_efficient(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernel computes there what the processor does, for a few numbers drawn at random.

    There is none for bfloat16 before compute capability 8.0. A torch that was built for another GPU than this one may
    have a kernel that prints a line and leaves the answer as it was, with no error to catch.
    """
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(1, 2, 40, 64, generator=generator).to(dtype) for _ in range(3)]
    query, keys, values = given
    try:
        found = _efficient_on_cuda(query.to(device), keys.to(device), values.to(device), 0.125, False, None)
        expected = _flash_on_cpu(query.float(), keys.float(), values.float(), 0.125, False, None)
        errors = [relative_error(a.float().cpu(), b) for a, b in zip(found, expected, strict=True)]
    except torch.OutOfMemoryError:
        raise  # says nothing of the kernel: it is tried out again when there is memory
    except RuntimeError:
        return False
    return all(error < _CLOSE[dtype] for error in errors)


def _flash_on_cpu(
    query: Tensor, keys: Tensor, values: Tensor, scale: float, is_causal: bool, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    bias = None
    if mask is not None:
        bias = torch.zeros(mask.shape, dtype=query.dtype).masked_fill_(~mask, -torch.inf)
        bias = bias.expand(*query.shape[:2], -1, -1)
    kernel = _aten._scaled_dot_product_flash_attention_for_cpu.default  # noqa: SLF001
    output, logsumexp = kernel(query, keys, values, 0.0, is_causal, attn_mask=bias, scale=scale)
    return output, logsumexp


def _efficient_on_cuda(
    query: Tensor, keys: Tensor, values: Tensor, scale: float, is_causal: bool, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    assert mask is None, "a mask would have to be widened to all heads"
    kernel = _aten._scaled_dot_product_efficient_attention.default  # noqa: SLF001
    output, logsumexp = kernel(query, keys, values, None, True, 0.0, is_causal, scale=scale)[:2]
    return output, logsumexp[..., : query.shape[2]]  # which it rounds up
