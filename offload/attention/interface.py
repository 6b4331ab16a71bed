"""Our attention function, registered with transformers under a name of its own."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask

from offload.attention.partial import PartialAttention, add_sink, attend_all, attend_masked, merge
from offload.kv.cache import TieredLayer
from offload.kv.store import Interval
from offload.kv.table import BlockTable
from tiers.errors import ModelError

NAME = "offload_blockwise"


def register() -> str:
    """Make the function known to transformers; returns the name for ``attn_implementation``. Idempotent.

    The mask function is the one for flash attention: it hands through the 2-D padding mask, or None where nothing is
    padded, and never builds a mask of queries x keys.
    """
    AttentionInterface.register(NAME, blockwise_attention)
    AttentionMaskInterface.register(NAME, flash_attention_mask)
    return NAME


def blockwise_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The attention interface of transformers.

    query [batch, heads, queries, dim] -> [batch, queries, heads, value_dim].

    ``key`` and ``value`` hold the new tokens; older ones are found through the mark that TieredLayer.update left on
    ``key``. ``attention_mask`` is [batch, tokens], true where a token is real, or None.
    """
    if softcap is not None:
        raise ModelError(f"attention with soft-capped scores (softcap={softcap}) is not supported")
    if dropout and module.training:
        raise ModelError("an offloaded model is for inference; call model.eval()")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer: TieredLayer | None = getattr(key, "kv_layer", None)
    batch, heads, queries, _dim = query.shape
    output = query.new_empty(batch, queries, heads, value.shape[-1])
    for row in range(batch):
        visible = None if attention_mask is None else attention_mask[row].bool()
        parts = _attend_row(query[row], key[row], value[row], visible, layer, row, scale, sliding_window)
        result = merge(parts) if parts else None
        if result is None:
            output[row] = 0
            continue
        if s_aux is not None:
            result = add_sink(result, s_aux)
        output[row] = result.output.transpose(0, 1)
    if layer is not None:
        layer.mark_read()
        if layer.prefetcher is not None:
            layer.prefetcher.advance(layer.index)
    return output, None


def _attend_row(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    visible: Tensor | None,
    layer: TieredLayer | None,
    row: int,
    scale: float,
    window: int | None,
) -> list[PartialAttention]:
    """query [heads, queries, dim], key and value [kv_heads, new tokens, dim]."""
    queries = query.shape[1]
    if layer is None:
        return [_attend_new(query, key, value, visible, scale, window, start=key.shape[1] - queries)]
    table = layer.rows[row]
    start = table.num_tokens - queries
    begin = _first_visible(visible) if visible is not None else 0
    if queries == 1 and (visible is None or bool(visible[begin:].all())):
        if window is not None:
            begin = max(begin, start + 1 - window)
        return _attend_blocks(query, table, layer, begin, start + 1, None, scale)
    parts: list[PartialAttention] = []
    if start > begin and queries > 0:
        mask = _Mask(visible, window, start, queries)
        oldest = begin if window is None else max(begin, start + 1 - window)
        parts = _attend_blocks(query, table, layer, oldest, start, mask, scale)
    new_visible = None if visible is None else visible[start:]
    parts.append(_attend_new(query, key, value, new_visible, scale, window, start=0))
    return parts


def _attend_blocks(
    query: Tensor, table: BlockTable, layer: TieredLayer, begin: int, end: int, mask: "_Mask | None", scale: float
) -> list[PartialAttention]:
    store = layer.store
    keys, spans = table.spans(begin, end)
    chosen = store.selector.select(layer.index, len(keys), None)
    if len(chosen) < len(keys):
        keys, spans = [keys[i] for i in chosen], [spans[i] for i in chosen]
    parts: list[PartialAttention] = []

    def visit(interval: Interval) -> None:
        key, value = store.keys[interval.start : interval.stop], store.values[interval.start : interval.stop]
        bits = None if mask is None else mask.part(interval.position, interval.stop - interval.start)
        if bits is None:
            parts.append(attend_all(query, key, value, scale))
        elif bool(bits.any()):
            parts.append(attend_masked(query, key, value, scale, bits))

    if layer.prefetcher is not None:
        layer.prefetcher.used(keys)
    store.visit(keys, spans, visit, in_order=mask is not None)
    return parts


def _attend_new(
    query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None, scale: float, window: int | None, start: int
) -> PartialAttention:
    """Attention to keys that came with the queries; the first query stands at position ``start`` of them."""
    tokens, queries = key.shape[1], query.shape[1]
    keys, values = key.transpose(0, 1), value.transpose(0, 1)
    padding = 0 if visible is None else _first_visible(visible)
    is_left_padded = visible is None or bool(visible[padding:].all())
    if is_left_padded and start == 0 and (window is None or tokens <= window):
        # Padding on the left needs no mask: neither its keys nor its queries take part.
        part = attend_masked(query[:, padding:], keys[padding:], values[padding:], scale, None)
        return part.padded(padding) if padding else part
    mask = _Mask(visible, window, start, queries).part(0, tokens, is_causal=True)
    return attend_masked(query, keys, values, scale, mask)


def _first_visible(visible: Tensor) -> int:
    """Position of the first true element; the length if there is none."""
    return int(visible.to(torch.uint8).argmax()) if bool(visible.any()) else visible.shape[0]


class _Mask:
    """Which of the queries at positions ``start ..`` may see which keys."""

    def __init__(self, visible: Tensor | None, window: int | None, start: int, queries: int) -> None:
        self._visible = visible
        self._window = window
        self._start = start
        self._queries = queries

    def part(self, position: int, tokens: int, *, is_causal: bool = False) -> Tensor | None:
        """[queries, tokens] for keys from ``position`` on; None if every query sees all of them."""
        visible = None if self._visible is None else self._visible[position : position + tokens]
        is_padded = visible is not None and not bool(visible.all())
        last_query = self._start + self._queries - 1
        is_windowed = self._window is not None and last_query - position >= self._window
        if not (is_padded or is_windowed or is_causal):
            return None
        keys = torch.arange(position, position + tokens)
        queries = torch.arange(self._start, self._start + self._queries).unsqueeze(1)
        mask = torch.ones(self._queries, tokens, dtype=torch.bool)
        if is_causal:
            mask &= keys <= queries
        if self._window is not None:
            mask &= queries - keys < self._window
        if visible is not None:
            mask &= visible
        return mask
