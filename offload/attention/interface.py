"""Our attention function, registered with transformers under a name of its own."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from offload.attention.in_storage import attend_in_drives
from offload.attention.latent import LatentHeads, take_latent_layer
from offload.attention.mask import QueryMask, attend_new, attend_visible
from offload.attention.padding import Padding, padding_mask
from offload.attention.paged import NO_KERNEL, attend_runs, kernel_for_runs
from offload.attention.partial import PartialAttention, add_sink, attend_all, merge
from offload.attention.stored import KeysAndValues, StoredTokens
from offload.graphs.placed import PlacedLayer, attend_placed
from offload.kv.drive_layer import DriveLayer
from offload.kv.store import Interval
from offload.kv.table import BlockTable
from offload.kv.tiered_layer import TieredLayer
from tiers.errors import ModelError

NAME = "offload_blockwise"

_MOST_PARTS = 8
"""Parts that are kept before they are merged: each is as large as the queries, or larger where these meet latents."""


def register() -> str:
    """Make the function known to transformers; returns the name for ``attn_implementation``. Idempotent.

    No mask of queries x keys is ever handed through: only which tokens are padding, if there are any.
    """
    AttentionInterface.register(NAME, blockwise_attention)
    AttentionMaskInterface.register(NAME, padding_mask)
    return NAME


def blockwise_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Padding | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """The attention interface of transformers.

    query [batch, heads, queries, dim] -> [batch, queries, heads, value_dim].

    ``key`` and ``value`` hold the new tokens; older ones are found through the mark that
    the layer of the cache left on them. Raises ModelError for attention of a kind that we do not follow.
    """
    layer, stored = find_layer(module, key, value, sliding_window)
    check_followed(module, attention_mask, dropout, softcap, is_causal=is_causal)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if isinstance(layer, PlacedLayer):
        if sliding_window is not None or s_aux is not None:
            raise ModelError("sliding windows and attention sinks are not followed in a graph")
        return attend_placed(query, layer, scale), None
    if isinstance(layer, DriveLayer):
        rows = attend_in_drives(query, key, value, attention_mask, layer, scale)
    else:
        rows = [
            _attend_row(query[row], key, value, attention_mask, layer, stored, row, scale, sliding_window)
            for row in range(query.shape[0])
        ]
    if layer is not None:
        layer.after_attention()
    if s_aux is not None:
        rows = [add_sink(part, s_aux) for part in rows]
    outputs = [part.output.transpose(0, 1).to(query.dtype) for part in rows]
    return (outputs[0].unsqueeze(0) if len(outputs) == 1 else torch.stack(outputs)), None


def find_layer(
    module: nn.Module, key: Tensor, value: Tensor, sliding_window: int | None
) -> tuple[TieredLayer | DriveLayer | PlacedLayer | None, StoredTokens]:
    """The layer of the cache that holds the older tokens, and how queries meet these; None where nothing is cached.

    Raises ModelError where it is not clear what a layer holds.
    """
    layer: TieredLayer | DriveLayer | PlacedLayer | None = getattr(key, "kv_layer", None)
    if layer is not getattr(value, "kv_layer", None):
        raise ModelError(f"{type(module).__name__} changes keys or values on their way from the cache; not supported")
    stored: StoredTokens = _KEYS_AND_VALUES
    if layer is None and (layer := take_latent_layer(module)) is not None:
        stored = LatentHeads.of(module)
    if layer is not None and layer.window is not None and layer.window != sliding_window:
        raise ModelError(
            f"{type(module).__name__} has a window of {sliding_window} where config.json says {layer.window}; "
            "not supported"
        )
    return layer, stored


_KEYS_AND_VALUES = KeysAndValues()


def check_followed(
    module: nn.Module, mask: object, dropout: float, softcap: float | None, *, is_causal: bool | None
) -> None:
    """Raises ModelError for attention of a kind that we do not follow."""
    if softcap is not None:
        raise ModelError(f"attention with soft-capped scores (softcap={softcap}) is not supported")
    if is_causal is False:
        raise ModelError("attention that looks ahead (is_causal=False) is not supported")
    if dropout and module.training:
        raise ModelError("an offloaded model is for inference; call model.eval()")
    if mask is not None and not isinstance(mask, Padding):
        raise ModelError("attention masks of queries x keys are not supported; pass [batch, tokens] or none")


def _attend_row(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    padding: Padding | None,
    layer: TieredLayer | None,
    stored: StoredTokens,
    row: int,
    scale: float,
    window: int | None,
) -> PartialAttention:
    """query [heads, queries, dim] of a row; key and value [batch, kv_heads, new tokens, dim]."""
    queries = query.shape[1]
    if layer is None:
        visible = None if padding is None else padding.visible[row]
        key, value = key[row], value[row]
        mask = QueryMask(key.shape[1] - queries, window, visible)
        return attend_visible(query, key.transpose(0, 1), value.transpose(0, 1), scale, mask, 0)
    table = layer.rows[row]
    end = table.num_tokens
    start = end - queries
    begin = 0 if padding is None else padding.first[row]
    is_solid = padding is None or padding.is_solid[row]
    if queries == 1 and is_solid and begin < end:
        oldest = begin if window is None else max(begin, end - window)
        if table.origin is None:
            return _attend_blocks(query, table, layer, stored, oldest, end, None, scale)
        return _attend_run(query, table, layer, stored, oldest, end, scale)
    mask = QueryMask(start, window, None if is_solid or padding is None else padding.visible[row])
    new = attend_new(query, key[row], value[row], mask, begin, scale)
    if start <= begin:
        return new
    oldest = begin if window is None else max(begin, start + 1 - window)
    if oldest == start:
        return new
    return merge([_attend_blocks(query, table, layer, stored, oldest, start, mask, scale), new])


def _attend_run(
    query: Tensor, table: BlockTable, layer: TieredLayer, stored: StoredTokens, begin: int, end: int, scale: float
) -> PartialAttention:
    """Every query sees the tokens at positions ``begin .. end - 1``, which lie side by side and stay there."""
    store, origin = layer.store, table.origin
    assert origin is not None
    store.count_visit(begin, end)
    keys, values = stored.tokens(store, slice(origin + begin, origin + end))
    return stored.answer(attend_all(stored.ask(query), keys, values, scale))


def _attend_blocks(
    query: Tensor,
    table: BlockTable,
    layer: TieredLayer,
    stored: StoredTokens,
    begin: int,
    end: int,
    mask: QueryMask | None,
    scale: float,
) -> PartialAttention:
    """The tokens at positions ``begin .. end - 1``, wherever they are; every query sees them if there is no mask."""
    store = layer.store
    keys, spans = table.spans(begin, end)
    chosen = store.selector.select(layer.index, len(keys), None)
    if len(chosen) < len(keys):
        keys, spans = [keys[i] for i in chosen], [spans[i] for i in chosen]
    hides = mask is not None and (mask.window is not None or mask.visible is not None)
    asked = stored.ask(query)
    most_parts = max(2, _MOST_PARTS * query.shape[-1] // asked.shape[-1])
    parts: list[PartialAttention] = []

    every = stored.tokens(store, slice(None))
    kernel = NO_KERNEL if hides else kernel_for_runs(asked, *every)

    def visit(intervals: Sequence[Interval]) -> None:
        if len(intervals) > 1:
            if kernel.value is not None:
                runs = [(interval.start, interval.stop) for interval in intervals]
                add(attend_runs(kernel.value, asked, *every, runs, scale))
                return
            if kernel.flaw:
                store.flaws.add(f"a launch for each run of blocks: {kernel.flaw}")
        for interval in intervals:
            key, value = (tokens[interval.start : interval.stop] for tokens in every)
            if mask is not None and hides:
                add(attend_visible(asked, key, value, scale, mask, interval.position))
            else:
                add(attend_all(asked, key, value, scale))

    def add(part: PartialAttention) -> None:
        parts.append(part)
        if len(parts) == most_parts:
            parts[:] = [merge(parts)]

    store.visit_waves(keys, spans, visit, in_order=hides)
    return stored.answer(merge(parts))
