"""Attention where the older tokens are in drives that compute it: a decode step sends queries and gets outputs back.

A prompt attends to itself on the device, exactly, while its keys and values go to the drives (InstAttention, HPCA 2025,
section III). Only a prompt that comes in pieces has its older tokens read back.
"""

from torch import Tensor

from offload.attention.mask import QueryMask, attend_new
from offload.attention.padding import Padding
from offload.attention.partial import PartialAttention, attend_all, merge
from offload.kv.drive_layer import DriveLayer
from offload.kv.new_tokens import NewTokens


def attend_in_drives(
    query: Tensor, key: Tensor, value: Tensor, padding: Padding | None, layer: DriveLayer, scale: float
) -> list[PartialAttention]:
    """One part for each row. query [batch, heads, queries, dim]; key and value [batch, kv_heads, queries, dim]."""
    batch, _, queries, _ = query.shape
    start = layer.num_tokens - queries
    if queries == 1 and start and (padding is None or bool(padding.visible[:, start].all())):
        inputs = None if layer.inputs is None else layer.inputs.squeeze(1)
        tokens = NewTokens(key.squeeze(2), value.squeeze(2), inputs)
        found = layer.rows.attend(layer.index, query.squeeze(2), tokens, scale).to(query.device)
        pairs = zip(found.output.unsqueeze(2), found.logsumexp.unsqueeze(2), strict=True)
        return [PartialAttention(output, logsumexp) for output, logsumexp in pairs]
    parts = []
    for row in range(batch):
        inputs = None if layer.inputs is None else layer.inputs[row]
        tokens = NewTokens(key[row].transpose(0, 1), value[row].transpose(0, 1), inputs)
        parts.append(_attend_row(query[row], tokens, padding, layer, row, scale))
    return parts


def _attend_row(
    query: Tensor, tokens: NewTokens, padding: Padding | None, layer: DriveLayer, row: int, scale: float
) -> PartialAttention:
    """query [heads, queries, dim] of ``tokens``."""
    queries = query.shape[1]
    start = layer.num_tokens - queries
    visible = None if padding is None else padding.visible[row]
    begin = 0 if padding is None else padding.first[row]
    is_solid = padding is None or padding.is_solid[row]
    mask = QueryMask(start, None, None if is_solid else visible)
    parts = [attend_new(query, tokens.keys.transpose(0, 1), tokens.values.transpose(0, 1), mask, begin, scale)]
    if layer.rows.num_tokens(layer.index, row):
        # Of what is padding the drives know nothing, so all queries see all that they hold.
        old_keys, old_values = layer.rows.read(layer.index, row)
        parts.insert(0, attend_all(query, old_keys.to(query), old_values.to(query), scale))
    if visible is not None:
        tokens = tokens[visible[start : start + queries]]
    layer.rows.write(layer.index, row, tokens)
    return merge(parts)
