"""Which transformers class a checkpoint needs, whether we can run it, and an empty one of it."""

from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from offload.attention.interface import register
from offload.kv.cache import layer_windows
from offload.offloaded_model import OffloadedModel
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
    layer_windows(config)
    return config, model_class


def build_empty(config: PreTrainedConfig, model_class: type[PreTrainedModel], dtype: torch.dtype) -> OffloadedModel:
    """The model without any weight, but with real buffers; it is also an OffloadedModel."""
    offloaded = cast(
        "type[OffloadedModel]", type(f"Offloaded{model_class.__name__}", (OffloadedModel, model_class), {})
    )
    with torch.device("meta"):
        model: OffloadedModel = offloaded._from_config(config, attn_implementation=register(), dtype=dtype)  # noqa: SLF001
    _fill_buffers(model)
    model.eval()
    return model


def _fill_buffers(model: PreTrainedModel) -> None:
    """Give real values to what is computed and not stored, such as rotary frequencies."""
    for module in model.modules():
        buffers = {name: buffer for name, buffer in module.named_buffers(recurse=False) if buffer.is_meta}
        if not buffers:
            continue
        for name, buffer in buffers.items():
            real = torch.full_like(buffer, _SENTINEL if buffer.is_floating_point() else 0, device="cpu")
            module.register_buffer(name, real, persistent=name not in module._non_persistent_buffers_set)  # noqa: SLF001
        model._init_weights(module)  # noqa: SLF001 - the hook by which transformers itself fills buffers after meta
        for name in buffers:
            _check_filled(module, name)


# A value that no real buffer is full of: it shows whether _init_weights has filled one.
_SENTINEL = -7.0e11


def _check_filled(module: nn.Module, name: str) -> None:
    buffer = module.get_buffer(name)
    if buffer.is_floating_point() and buffer.numel() and bool((buffer == _SENTINEL).any()):
        raise ModelError(f"{type(module).__name__}: buffer '{name}' cannot be rebuilt; the model cannot be offloaded")
