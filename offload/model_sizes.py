"""From a checkpoint's weight groups and its config.json to the numbers that the planner needs."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from offload.kv.shape import AttentionShape
from offload.matrices import activation_nbytes, matrices_of
from offload.plan import ModelSizes
from tiers.block import ExpertKey
from tiers.errors import ModelError
from tiers.tier import ALIGNMENT
from tiers.weight_tier import GroupKind, WeightGroup

_DTYPE_NBYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class _Shape:
    """What config.json says, and what attention needs."""

    text: Mapping[str, Any]
    dtype: str
    num_layers: int
    hidden: int
    attention: AttentionShape

    @property
    def itemsize(self) -> int:
        return _DTYPE_NBYTES[self.dtype]


def model_sizes(
    groups: Iterable[WeightGroup], config: Mapping[str, Any], attention: AttentionShape, *, min_block_tokens: int = 64
) -> ModelSizes:
    """Sizes of the model whose weights are ``groups`` and whose config.json is ``config``.

    A KV block holds at least ``min_block_tokens`` tokens, see ``block_tokens``. Keys and values have the checkpoint's
    dtype. Raises ModelError on a config that lacks a key, or on weights that are not its decoder's.
    """
    by_kind: dict[str, list[WeightGroup]] = {kind: [] for kind in get_args(GroupKind)}
    for group in groups:
        by_kind[group.kind].append(group)
    shape = _read_shape(config, attention)
    if len(by_kind["layer"]) != shape.num_layers:
        found = len(by_kind["layer"])
        raise ModelError(f"config.json: 'num_hidden_layers' is {shape.num_layers}, but the weights have {found} layers")
    kv_nbytes = attention.kv.values_per_token * shape.itemsize
    experts = by_kind["expert"]
    sparse_layers = {group.key.layer for group in experts if isinstance(group.key, ExpertKey)}
    top_k = _top_k(shape.text) if experts else 0
    visited = top_k * len(sparse_layers)
    weights = _num_weights(by_kind["layer"]) + _num_weights(by_kind["head"])
    if experts:
        weights += _num_weights(experts) * visited // len(experts)
    return ModelSizes(
        layer_nbytes=_nbytes(by_kind["layer"]),
        head_nbytes=_nbytes(by_kind["head"]),
        embedding_nbytes=sum(_nbytes(by_kind["embedding"])),
        rest_nbytes=sum(_nbytes(by_kind["rest"])),
        tied=not by_kind["embedding"],
        kv_nbytes_per_token_layer=kv_nbytes,
        num_layers=shape.num_layers,
        kv_block_tokens=block_tokens(kv_nbytes, min_block_tokens),
        flops_per_token=2.0 * weights,
        workspace_nbytes_per_token=shape.itemsize * _activations(shape, top_k),
        # Logits of one position as they come, in float32, and a copy that sampling makes.
        workspace_nbytes_fixed=_integer(shape.text, "vocab_size") * (shape.itemsize + 2 * 4),
        dtype=shape.dtype,
        attention_flops_per_pair=shape.num_layers * attention.flops_per_pair,
        embedding_row_nbytes=shape.hidden * shape.itemsize,
        layer_matrices=_matrices(by_kind["layer"]),
        expert_matrices=matrices_of(experts[0]) if experts else (),
        layer_activations=tuple(sorted(Counter(map(activation_nbytes, by_kind["layer"])).items())),
        kv_heads=attention.kv.heads,
        num_sparse_layers=len(sparse_layers),
        layer_names=_names(by_kind["layer"]),
        head_names=_names(by_kind["head"]),
        embedding_names=_names(by_kind["embedding"]),
        rest_names=_names(by_kind["rest"]),
        num_experts=len(experts),
        experts_per_token=visited,
        experts_per_layer_and_token=top_k,
        expert_nbytes=max(_nbytes(experts), default=0),
    )


def block_tokens(kv_nbytes_per_token: int, minimum: int = 64) -> int:
    """Tokens per KV block: the smallest multiple of 16, at least ``minimum``, that fills whole pages of 4096 bytes."""
    tokens = -(-minimum // 16) * 16
    while tokens * kv_nbytes_per_token % ALIGNMENT:
        tokens += 16
    return tokens


def _read_shape(config: Mapping[str, Any], attention: AttentionShape) -> _Shape:
    text = config.get("text_config") or config
    return _Shape(
        text=text,
        dtype=_dtype(text, config),
        num_layers=_integer(text, "num_hidden_layers"),
        hidden=_integer(text, "hidden_size"),
        attention=attention,
    )


def _activations(shape: _Shape, top_k: int) -> int:
    """Numbers alive per token at a layer's widest, counted as if all were alive at once.

    The residual, its norm and the layer's output; what attention needs; gate, up and their product in the feed-forward
    part; what each of ``top_k`` experts is given where their products are grouped, and what it gives, before and after
    it is weighted.
    """
    dense = _integer(shape.text, "intermediate_size", 4 * shape.hidden)
    routed = top_k * _integer(shape.text, "moe_intermediate_size", dense)
    return 3 * (shape.hidden + max(dense, routed)) + shape.attention.activations + 3 * top_k * shape.hidden


_TOP_K = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_k", "moe_top_k")


def _top_k(text: Mapping[str, Any]) -> int:
    """Routed experts that a token visits in one layer; the most where layers differ."""
    value: Any = text.get(_first(_TOP_K, text))
    counts = value if isinstance(value, list) and value else [value]
    if not all(isinstance(count, int) and count > 0 for count in counts):
        raise ModelError(f"config.json: '{_TOP_K[0]}' is missing, but the weights are of a mixture of experts")
    return int(max(counts))


def _num_weights(groups: list[WeightGroup]) -> int:
    return sum(math.prod(spec.shape) for group in groups for spec in group.tensors)


def _dtype(text: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    keys = ("dtype", "torch_dtype")
    named = text.get(_first(keys, text)) or config.get(_first(keys, config)) or "float32"
    name = str(named).removeprefix("torch.")
    if name not in _DTYPE_NBYTES:
        raise ModelError(f"config.json: dtype '{name}' is not supported; use one of {', '.join(_DTYPE_NBYTES)}")
    return name


def _first(keys: tuple[str, ...], source: Mapping[str, Any]) -> str:
    """The first key that is set; the last one if none is."""
    return next((key for key in keys if source.get(key)), keys[-1])


def _integer(text: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A key that must be a positive whole number, or one that may be absent, null or 0 when there is a default."""
    value = text.get(key)
    if value is None and default is not None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < (default is None):
        raise ModelError(f"config.json: '{key}' is {value!r}; a decoder-only model has a whole number there")
    return value


def _matrices(groups: list[WeightGroup]) -> tuple[tuple[int, int], ...]:
    return tuple(sorted(Counter(nbytes for group in groups for nbytes in matrices_of(group)).items()))


def _nbytes(groups: list[WeightGroup]) -> tuple[int, ...]:
    return tuple(group.nbytes for group in groups)


def _names(groups: list[WeightGroup]) -> tuple[str, ...]:
    return tuple(group.key.name for group in groups)
