"""What a transformer's forward pass takes, from its config.json and the numbers of a machine: the roofline."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from simulators.profile import HardwareProfile
from tiers.errors import InvalidOptionError

_NBYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a decoder: attention with grouped heads, then feed-forward layers or a mixture of them."""

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

    @property
    def kv_nbytes_per_token(self) -> int:
        """Keys and values of all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * _NBYTES[self.dtype]

    def weights(self, experts: float) -> float:
        """Numbers in the layers and the head, where each layer counts ``experts`` of its experts."""
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        feed_forward = self.feed_forward_matrices * self.hidden * self.intermediate
        return self.layers * (attention + experts * feed_forward) + self.hidden * self.vocabulary

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
        return self.weights(visited) * _NBYTES[self.dtype]

    def attention_flops(self, tokens: int, context: int) -> float:
        """Of ``tokens`` behind ``context`` others, each with those before it: scores and weighted values."""
        pairs = tokens * context + tokens * (tokens + 1) / 2
        return 4.0 * self.layers * self.heads * self.head_dim * pairs


def read_model_shape(path: Path) -> ModelShape:
    """From a config.json as Hugging Face writes it; InvalidOptionError names what is missing in it."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidOptionError(f"{path}: is no config.json of a model ({error})") from None
    if not isinstance(config, dict):
        raise InvalidOptionError(f"{path}: is no config.json of a model; name that of a Hugging Face directory")
    config = {**config, **config.get("text_config", {})}
    heads, hidden = (_size(config, key, path) for key in ("num_attention_heads", "hidden_size"))
    experts = _size(config, _first(config, "num_local_experts", "num_experts", "n_routed_experts"), path, 1)
    dtype = config.get("dtype", config.get("torch_dtype", "bfloat16"))
    if dtype not in _NBYTES:
        raise InvalidOptionError(f"{path}: 'dtype' is {dtype!r}; it must be one of {', '.join(_NBYTES)}")
    is_ungated = "ffn_dim" in config
    width = "moe_intermediate_size" if experts > 1 and "moe_intermediate_size" in config else "intermediate_size"
    return ModelShape(
        layers=_size(config, "num_hidden_layers", path),
        hidden=hidden,
        heads=heads,
        kv_heads=_size(config, "num_key_value_heads", path, heads),
        head_dim=_size(config, "head_dim", path, hidden // heads),
        intermediate=_size(config, "ffn_dim" if is_ungated else width, path),
        vocabulary=_size(config, "vocab_size", path),
        experts=experts,
        experts_per_token=_size(config, "num_experts_per_tok", path, 1) if experts > 1 else 1,
        dtype=dtype,
        feed_forward_matrices=2 if is_ungated else 3,
    )


@dataclass(frozen=True, slots=True)
class RooflineCosts:
    """ServingCosts of a model whose weights stay on the device. ``batch`` requests are decoded side by side."""

    shape: ModelShape
    profile: HardwareProfile
    batch: int = 1
    waits_for_moves: ClassVar[bool] = False

    def prefill_s(self, new_tokens: int, context_tokens: int) -> float:
        """See ServingCosts: arithmetic, or the reading of the weights, whichever takes longer."""
        if not new_tokens:
            return 0.0
        flops = 2.0 * self.shape.active_weights * new_tokens
        flops += self.shape.attention_flops(new_tokens, context_tokens)
        return max(self._compute_s(flops), self._read_s(self.shape.nbytes_read(new_tokens)))

    def decode_s(self, tokens: int, context_tokens: int) -> float:
        """See ServingCosts: in a batch whose other requests are like this one."""
        return tokens * self.step_s(self.batch, context_tokens + tokens / 2) / self.batch

    def step_s(self, num_requests: int, context_tokens: float) -> float:
        """See ServingCosts: the weights are read once, and the keys and values of each request."""
        kv_nbytes = num_requests * context_tokens * self.shape.kv_nbytes_per_token
        flops = num_requests * (2.0 * self.shape.active_weights + self.shape.attention_flops(1, int(context_tokens)))
        return max(self._compute_s(flops), self._read_s(self.shape.nbytes_read(num_requests) + kv_nbytes))

    def _compute_s(self, flops: float) -> float:
        return flops / (self.profile.flops_per_s(self.shape.dtype) * self.profile.flops_share)

    def _read_s(self, nbytes: float) -> float:
        return nbytes / (self.profile.memory_bytes_per_s * self.profile.memory_share)


def _first(config: Mapping[str, Any], *keys: str) -> str:
    return next((key for key in keys if config.get(key) is not None), keys[0])


def _size(config: Mapping[str, Any], key: str, path: Path, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if value is None:
        raise InvalidOptionError(f"{path}: '{key}' is missing; name the config.json of a decoder")
    if type(value) is not int or value < 1:
        raise InvalidOptionError(f"{path}: '{key}' is {value!r}; it must be a whole number from 1 up")
    return value
