"""What stands in for the operations that only CUDA has."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten
_ROUND_LOGSUMEXP_TO = 32


def _histc(numbers: Tensor, *rest: Any, **options: Any) -> Tensor:
    """Of whole numbers too."""
    found: Tensor = _aten.histc.default(numbers.float(), *rest, **options)
    return found.to(numbers.dtype)


def _efficient(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    bias: Tensor | None,
    with_logsumexp: bool,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Any, ...]:
    assert with_logsumexp
    output, logsumexp = _aten._scaled_dot_product_flash_attention_for_cpu.default(
        query, keys, values, dropout, is_causal, attn_mask=bias, scale=scale
    )
    more = -logsumexp.shape[2] % _ROUND_LOGSUMEXP_TO
    return output, torch.nn.functional.pad(logsumexp, (0, more), value=float("nan")), None, None


def _flash(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    dropout: float = 0.0,
    is_causal: bool = False,
    with_mask: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Any, ...]:
    """Knows by itself which heads share keys. Which corner is hidden differs from the processor's where one is."""
    assert not is_causal or query.shape[2] == keys.shape[2]
    group = query.shape[1] // keys.shape[1]
    keys, values = (tokens.repeat_interleave(group, 1) for tokens in (keys, values))
    output, logsumexp = _aten._scaled_dot_product_flash_attention_for_cpu.default(
        query, keys, values, dropout, is_causal, scale=scale
    )
    return output, logsumexp, None, None, 0, 0, None, None, None


OPERATIONS: dict[Any, Callable[..., Any]] = {
    _aten.histc.default: _histc,
    _aten._scaled_dot_product_efficient_attention.default: _efficient,
    _aten._scaled_dot_product_flash_attention.default: _flash,
}
