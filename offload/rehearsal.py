"""A forward pass without data: what a model asks of its cache and of attention, before any of its weights is read.

Configurations have a name of their own for everything. What counts is what the model does, and it tells when it is run
on torch's meta device, where tensors have shapes and no content: that takes milliseconds and no memory.
"""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from offload.attention.interface import check_followed, find_layer
from offload.attention.latent import follow_latents
from offload.attention.padding import padding_mask
from offload.experts.layout import check_experts
from offload.kv.cache import layer_windows
from offload.kv.shape import AttentionShape, KVShape
from offload.positions import CHANGING
from tiers.errors import ModelError

if TYPE_CHECKING:
    from offload.kv.tiered_layer import TieredLayer

_NAME = "offload_rehearsal"
_TOKENS = 2

_KNOWN_TENSORS = frozenset({"position_ids", "cache_position", "s_aux"})
"""What attention may be given beside queries, keys and values without being another kind of attention."""


def rehearse(config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> AttentionShape:
    """Run an empty model of a configuration for two tokens.

    Raises ModelError where it keeps anything but one kind of keys and values for each layer, where it computes its
    attention or its experts elsewhere than in the interfaces of transformers, and for attention that we do not follow.
    """
    windows = layer_windows(config)
    AttentionInterface.register(_NAME, _attention)
    AttentionMaskInterface.register(_NAME, _mask)
    ALL_EXPERTS_FUNCTIONS.register(_NAME, _experts)
    cache = _RehearsedCache(windows)
    with torch.inference_mode():
        try:
            model = _on_meta(config, model_class)
            check_experts(model)
            follow_latents(model)
            tokens = torch.zeros(1, _TOKENS, dtype=torch.long, device="meta")
            model(input_ids=tokens, past_key_values=cache, use_cache=True)
        except ModelError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a model does with a cache that is not as it wants it
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelError(f"it does not run with a cache of keys and values ({reason})") from None
    return cache.shape()


def _on_meta(config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> PreTrainedModel:
    with torch.device("meta"):
        model: PreTrainedModel = model_class._from_config(  # noqa: SLF001 - as transformers itself makes one
            copy.deepcopy(config), attn_implementation=_NAME, experts_implementation=_NAME
        )
    if any(getattr(module, "is_causal", True) is False for module in model.modules()):
        raise ModelError("it looks ahead (is_causal=False); only causal models can be offloaded")
    model.config.pad_token_id = None  # or else some look whether there is padding, in tensors without content
    # Or else some look how long the sequence is; the shapes are the same.
    for module in model.modules():
        if isinstance(kind := getattr(module, "rope_type", None), str | dict):
            setattr(module, "rope_type", _unchanging(kind))  # noqa: B010 - torch types attributes as modules and tensors
    rope = getattr(model.config, "rope_parameters", None) or {}
    if "rope_type" in rope:
        rope["rope_type"] = _unchanging(rope["rope_type"])
    model.eval()
    return model


def _unchanging(kind: str | dict[str, str]) -> str | dict[str, str]:
    """A kind of RoPE, or one for each kind of layers, that never looks at the length of a sequence."""
    if isinstance(kind, dict):
        return {layer: "default" if of_layer in CHANGING else of_layer for layer, of_layer in kind.items()}
    return "default" if kind in CHANGING else kind


@dataclass(frozen=True, slots=True)
class _Seen:
    """Shapes in one layer: of what it cached, and of what attention was then given."""

    key: tuple[int, ...]
    value: tuple[int, ...]

    def attended(self, query: Tensor, key: Tensor, value: Tensor) -> AttentionShape:
        kv = KVShape(self.key[1], self.key[3], self.value[3])
        heads = query.shape[1]
        is_latent = tuple(key.shape) != self.key
        return AttentionShape(
            kv=kv,
            query=heads * query.shape[3],
            key=key.shape[1] * key.shape[3],
            value=value.shape[1] * value.shape[3],
            output=heads * value.shape[3],
            latent=heads * (kv.key_dim + kv.value_dim) if is_latent else 0,
        )


class _RehearsedLayer(CacheLayerMixin):
    """Hands keys and values on with a mark, as TieredLayer does, and keeps none."""

    def __init__(self, index: int, window: int | None) -> None:
        super().__init__()
        self.index = index
        self.window = window
        self.is_sliding = window is not None
        self.seen: _Seen | None = None
        self.shape: AttentionShape | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        if self.seen is not None:
            raise ModelError(f"layer {self.index} is run more than once for a token; not supported")
        self.seen = _Seen(tuple(key_states.shape), tuple(value_states.shape))
        key_states.kv_layer = value_states.kv_layer = self  # type: ignore[attr-defined]
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


class _RehearsedCache(Cache):
    def __init__(self, windows: list[int | None]) -> None:
        self._rehearsed = [_RehearsedLayer(index, window) for index, window in enumerate(windows)]
        super().__init__(layers=list(self._rehearsed))

    def shape(self) -> AttentionShape:
        """The widest of all layers, which must cache the same. Raises ModelError where they do not."""
        for layer in self._rehearsed:
            if layer.seen is None:
                raise ModelError(f"layer {layer.index} has no keys and values of its own; not supported")
            if layer.shape is None:
                raise ModelError(
                    f"layer {layer.index} computes its attention outside the attention interface of transformers"
                )
        shapes = [layer.shape for layer in self._rehearsed if layer.shape is not None]
        kinds = sorted({(shape.kv.heads, shape.kv.key_dim, shape.kv.value_dim) for shape in shapes})
        if len(kinds) > 1:
            raise ModelError(
                f"layers with attention heads of different shapes are not supported (heads, widths: {kinds})"
            )
        return max(shapes, key=lambda shape: shape.activations)


def _mask(*, kv_length: int, allow_is_causal_skip: bool = True, **_: object) -> None:
    """Checks what our mask function would of what is asked; the mask itself has no content here."""
    padding_mask(kv_length=kv_length, allow_is_causal_skip=allow_is_causal_skip)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: object,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    **others: object,
) -> tuple[Tensor, None]:
    """Checks what our attention function would, and that nothing comes along that it would not heed."""
    layer = cast("TieredLayer | _RehearsedLayer | None", find_layer(module, key, value, sliding_window)[0])
    check_followed(module, attention_mask, dropout, softcap, is_causal=is_causal)
    for name, other in others.items():
        if isinstance(other, Tensor) and name not in _KNOWN_TENSORS:
            raise ModelError(
                f"{type(module).__name__} gives its attention '{name}'; attention of that kind is not supported"
            )
    if isinstance(layer, _RehearsedLayer) and layer.seen is not None:
        layer.shape = layer.seen.attended(query, key, value)
    return query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[-1]), None


def _experts(_: nn.Module, hidden_states: Tensor, *routing: Tensor) -> Tensor:  # noqa: ARG001 - of the right shape is enough
    return torch.empty_like(hidden_states)
