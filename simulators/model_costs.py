"""The sizes of a transformer, from its config.json: weights, arithmetic, and what it caches of a token."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulators.latent_attention import LatentAttention
from tiers.errors import InvalidOptionError

_NBYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_NUM_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_TOP_K = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_k", "moe_top_k")
"""Routed experts that a token visits, by the families that name them."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a decoder: attention with grouped heads or latents, then feed-forward layers or a mixture of them.

    Widths and counts are in numbers, not bytes. Attention counts as full in every layer, also where it has a window.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    experts: int
    """1 of a dense model."""
    experts_per_token: int
    dtype: str
    feed_forward_matrices: int = 3
    """Of each expert: gate, up and down; 2 of a decoder without a gate (OPT)."""
    shared_intermediate: int = 0
    """The width of the experts that every token visits besides, together; 0 where there are none."""
    dense_layers: int = 0
    """How many layers of a mixture have a feed-forward part of ``dense_intermediate`` in its place."""
    dense_intermediate: int = 0
    latent: LatentAttention | None = None
    """None where keys and values are cached as they are."""
    is_tied: bool = True
    """Whether the head and the embedding of the input are one matrix."""

    @property
    def item_nbytes(self) -> int:
        """Of one number, of weights as of keys and values."""
        return _NBYTES[self.dtype]

    @property
    def kv_nbytes_per_token(self) -> int:
        """Keys and values of all layers, or their latents."""
        latent, both = self.latent, 2 * self.kv_heads * self.head_dim
        return self.layers * (latent.values_per_token if latent else both) * self.item_nbytes

    @property
    def nbytes(self) -> int:
        """All that is stored of the model: every expert, the head, and the embedding where that is another matrix."""
        embedding = 0 if self.is_tied else self.head_weights
        return round(self.weights(self.experts) + embedding) * self.item_nbytes

    @property
    def expert_nbytes(self) -> int:
        """Of one routed expert."""
        return self.feed_forward_matrices * self.hidden * self.intermediate * self.item_nbytes

    @property
    def routed_experts(self) -> int:
        """How many all layers have together."""
        return (self.layers - self.dense_layers) * self.experts

    @property
    def head_weights(self) -> int:
        """Of the matrix that turns the last layer's output into logits."""
        return self.hidden * self.vocabulary

    def weights(self, experts: float) -> float:
        """Numbers in the layers and the head, where each layer counts ``experts`` of its experts."""
        if self.latent:
            attention = self.latent.weights(self.hidden, self.heads)
        else:
            attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        widths = (self.layers - self.dense_layers) * (experts * self.intermediate + self.shared_intermediate)
        widths += self.dense_layers * self.dense_intermediate
        return self.layers * attention + self.feed_forward_matrices * self.hidden * widths + self.head_weights

    @property
    def active_weights(self) -> float:
        """Those that one token is multiplied with."""
        return self.weights(self.experts_per_token)

    def nbytes_read(self, tokens: int) -> float:
        """Bytes of weights that a pass over ``tokens`` tokens reads, each expert that any of them visits once.

        With every expert as likely as another, as many are visited as chance has it.
        """
        share = self.experts_per_token / self.experts
        visited = self.experts * (1 - (1 - share) ** tokens)
        return self.weights(visited) * self.item_nbytes

    def attention_flops(self, tokens: int, context: int) -> float:
        """Of ``tokens`` behind ``context`` others, each with those before it: scores and weighted values."""
        pairs = tokens * context + tokens * (tokens + 1) / 2
        if self.latent:
            return self.layers * self.latent.flops(self.heads, pairs, context)
        return 4.0 * self.layers * self.heads * self.head_dim * pairs


def read_model_shape(path: Path) -> ModelShape:
    """From a config.json as Hugging Face writes it; InvalidOptionError names what is missing in it."""
    config = _read_config(path)
    heads, hidden = (_size(config, key, path) for key in ("num_attention_heads", "hidden_size"))
    layers = _size(config, "num_hidden_layers", path)
    experts = _size(config, _first(config, _NUM_EXPERTS), path, 1)
    is_mixture, is_ungated = experts > 1, "ffn_dim" in config
    dense = _size(config, "ffn_dim" if is_ungated else "intermediate_size", path)
    width = _size(config, "moe_intermediate_size", path, dense) if is_mixture else dense
    dense_layers = _num_dense_layers(config, layers, path) if is_mixture else 0
    return ModelShape(
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=_size(config, "num_key_value_heads", path, heads),
        head_dim=_size(config, "head_dim", path, hidden // heads),
        intermediate=width,
        vocabulary=_size(config, "vocab_size", path),
        experts=experts,
        experts_per_token=_size(config, _first(config, _TOP_K), path) if is_mixture else 1,
        dtype=config["dtype"],
        feed_forward_matrices=2 if is_ungated else 3,
        shared_intermediate=_shared_intermediate(config, path, width) if is_mixture else 0,
        dense_layers=dense_layers,
        dense_intermediate=dense if dense_layers else 0,
        latent=_read_latent(config, path),
        is_tied=config.get("tie_word_embeddings") is not False,
    )


def _read_config(path: Path) -> Mapping[str, Any]:
    """That of the text model where there are several, with its ``dtype``."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidOptionError(f"{path}: is no config.json of a model ({error})") from None
    if not isinstance(config, dict):
        raise InvalidOptionError(f"{path}: is no config.json of a model; name that of a Hugging Face directory")
    config = {**config, **(config.get("text_config") or {})}
    dtype = config.get("dtype", config.get("torch_dtype", "bfloat16"))
    if dtype not in _NBYTES:
        raise InvalidOptionError(f"{path}: 'dtype' is {dtype!r}; it must be one of {', '.join(_NBYTES)}")
    return {**config, "dtype": dtype}


def _read_latent(config: Mapping[str, Any], path: Path) -> LatentAttention | None:
    if config.get("kv_lora_rank") is None:
        return None
    return LatentAttention(
        rank=_size(config, "kv_lora_rank", path),
        rotated=_size(config, "qk_rope_head_dim", path),
        plain=_size(config, "qk_nope_head_dim", path),
        value=_size(config, "v_head_dim", path),
        query_rank=_size_or_zero(config, "q_lora_rank", path),
    )


def _shared_intermediate(config: Mapping[str, Any], path: Path, width: int) -> int:
    """As Qwen2-MoE names it, or as many experts as DeepSeek says, each as wide as the others."""
    named = _size_or_zero(config, "shared_expert_intermediate_size", path)
    return named or width * _size_or_zero(config, "n_shared_experts", path)


def _num_dense_layers(config: Mapping[str, Any], layers: int, path: Path) -> int:
    """DeepSeek names how many come first, Qwen their indices and the distance of the others."""
    first = _size_or_zero(config, "first_k_dense_replace", path)
    step = _size_or_zero(config, "decoder_sparse_step", path) or 1
    named = config.get("mlp_only_layers") or []
    if not isinstance(named, list):
        raise InvalidOptionError(f"{path}: 'mlp_only_layers' is {named!r}; it must be a list of layers")
    return sum(i < first or i in named or (i + 1) % step != 0 for i in range(layers))


def _first(config: Mapping[str, Any], keys: Sequence[str]) -> str:
    """The first key that has a value, else the first of all."""
    return next((key for key in keys if config.get(key) is not None), keys[0])


def _size_or_zero(config: Mapping[str, Any], key: str, path: Path) -> int:
    """0 for what is left out, null or 0."""
    return _size(config, key, path) if config.get(key) else 0


def _size(config: Mapping[str, Any], key: str, path: Path, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if value is None:
        raise InvalidOptionError(f"{path}: '{key}' is missing; name the config.json of a decoder")
    if type(value) is not int or value < 1:
        raise InvalidOptionError(f"{path}: '{key}' is {value!r}; it must be a whole number from 1 up")
    return value
