"""Which transformers class a checkpoint needs, whether we can run it, and an empty one of it."""

from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from offload.attention.interface import register
from offload.experts.interface import register as register_experts
from offload.kv.cache import layer_windows
from offload.offloaded_model import OffloadedModel, give_cache
from tiers.errors import ModelError


def read_architecture(path: Path) -> tuple[PreTrainedConfig, type[PreTrainedModel]]:
    """The configuration of a model directory and its class for causal language modelling.

    Raises ModelError where the architecture is unknown, or computes its attention in a way that we do not follow.
    """
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{path}: config.json names no architecture that transformers knows: {reason}") from None
    config = config.get_text_config(decoder=True)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(f"{path}: '{config.model_type}' is not a causal language model; only those can be offloaded")
    model_class = cast("type[PreTrainedModel]", MODEL_FOR_CAUSAL_LM_MAPPING[type(config)])
    if not getattr(model_class, "_supports_attention_backend", False):
        raise ModelError(
            f"{path}: {model_class.__name__} does not use the attention interface of transformers; "
            "it cannot be offloaded"
        )
    if getattr(config, "quantization_config", None):
        raise ModelError(f"{path}: quantised checkpoints are not supported; use the original in BF16, F16 or F32")
    if softcap := getattr(config, "attn_logit_softcapping", None):
        what = f"attention with soft-capped scores (attn_logit_softcapping={softcap})"
        raise ModelError(f"{path}: {what} is not supported")
    try:
        layer_windows(config)
        kv_shape(config)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    return config, model_class


def kv_shape(config: PreTrainedConfig) -> tuple[int, int]:
    """KV heads and the width of one, the same in all layers and for keys and values; raises ModelError if not."""
    if getattr(config, "kv_lora_rank", None):
        raise ModelError("latent attention (kv_lora_rank) is not supported; only keys and values of one width are")
    try:
        heads = config.num_attention_heads
        kv_heads = 1 if getattr(config, "multi_query", False) else getattr(config, "num_key_value_heads", None) or heads
        return kv_heads, getattr(config, "head_dim", None) or config.hidden_size // heads
    except RuntimeError:  # transformers' way to say that an attribute has a value for each layer
        raise ModelError("layers with attention heads of different shapes are not supported") from None


def standard_config(config: PreTrainedConfig) -> dict[str, Any]:
    """The configuration under the names that most models use, also where this one has names of its own."""
    kv_heads, head_dim = kv_shape(config)
    aliases = {name: getattr(config, name) for name in config.attribute_map if hasattr(config, name)}
    return {**config.to_dict(), **aliases, "num_key_value_heads": kv_heads, "head_dim": head_dim}


def build_empty(config: PreTrainedConfig, model_class: type[PreTrainedModel], dtype: torch.dtype) -> OffloadedModel:
    """The model without any weight, but with real buffers; it is also an OffloadedModel.

    Raises ModelError where it looks ahead, or has buffers that are neither stored nor computed.
    """
    offloaded = cast(
        "type[OffloadedModel]", type(f"Offloaded{model_class.__name__}", (OffloadedModel, model_class), {})
    )
    with torch.device("meta"):
        model: OffloadedModel = offloaded._from_config(  # noqa: SLF001
            config, attn_implementation=register(), experts_implementation=register_experts(), dtype=dtype
        )
    if any(getattr(module, "is_causal", True) is False for module in model.modules()):
        raise ModelError(f"'{config.model_type}' looks ahead (is_causal=False); only causal models can be offloaded")
    _fill_buffers(model)
    model.register_forward_pre_hook(give_cache, with_kwargs=True)
    model.eval()
    return model


def _fill_buffers(model: PreTrainedModel) -> None:
    """Give real values to what is computed and not stored, such as rotary frequencies.

    Buffers that are stored stay empty, for the checkpoint to fill. Raises ModelError for what nothing fills.
    """
    for module in model.modules():
        buffers = [name for name, buffer in module.named_buffers(recurse=False) if buffer.is_meta]
        computed = [name for name in buffers if name in module._non_persistent_buffers_set]  # noqa: SLF001
        for name in buffers:
            _make_real(module, name)
        if computed:
            model._init_weights(module)  # noqa: SLF001 - the hook by which transformers itself fills buffers after meta
        for name in computed:
            _check_filled(module, name)


def _make_real(module: nn.Module, name: str) -> None:
    buffer = module.get_buffer(name)
    real = torch.full_like(buffer, _SENTINELS.get(buffer.dtype, _SENTINEL), device="cpu")
    module.register_buffer(name, real, persistent=name not in module._non_persistent_buffers_set)  # noqa: SLF001


# Values that no real buffer is full of: they show whether _init_weights has filled one.
_SENTINEL = -71
_SENTINELS = {
    torch.float64: -7.1e11,
    torch.float32: -7.1e11,
    torch.bfloat16: -7.1e11,
    torch.uint8: 171,
    torch.bool: True,
}


def _check_filled(module: nn.Module, name: str) -> None:
    buffer = module.get_buffer(name)
    untouched = torch.full_like(buffer, _SENTINELS.get(buffer.dtype, _SENTINEL))
    if buffer.numel() and torch.equal(buffer, untouched):
        raise ModelError(f"{type(module).__name__}: buffer '{name}' cannot be rebuilt; the model cannot be offloaded")
