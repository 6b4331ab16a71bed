"""Which transformers class a checkpoint needs, whether we can run it, and an empty one of it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from offload.attention.interface import register
from offload.attention.latent import follow_latents
from offload.experts.interface import register as register_experts
from offload.graphs.graphs import by_graphs
from offload.kv.cache import layer_windows
from offload.kv.shape import AttentionShape
from offload.offloaded_model import OffloadedModel, give_cache
from offload.old_transformers import check_long_positions
from offload.positions import Positions
from offload.rehearsal import rehearse
from tiers.errors import ModelError


@dataclass(frozen=True, slots=True)
class Architecture:
    """The configuration of a model directory, its class for causal language modelling, and what its attention needs."""

    config: PreTrainedConfig
    model_class: type[PreTrainedModel]
    attention: AttentionShape


def read_architecture(path: Path) -> Architecture:
    """Raises ModelError where the architecture is unknown, or computes in a way that we do not follow."""
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{path}: config.json names no architecture that transformers knows: {reason}") from None
    config = config.get_text_config(decoder=True)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(f"{path}: '{config.model_type}' is not a causal language model; only those can be offloaded")
    model_class = cast("type[PreTrainedModel]", MODEL_FOR_CAUSAL_LM_MAPPING[type(config)])
    try:
        return Architecture(config, model_class, _examine(config, model_class))
    except ModelError as error:
        raise ModelError(f"{path}: '{config.model_type}' cannot be offloaded: {error}") from None


def _examine(config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> AttentionShape:
    if getattr(config, "quantization_config", None):
        raise ModelError("quantised checkpoints are not supported; use the original in BF16, F16 or F32")
    if softcap := getattr(config, "attn_logit_softcapping", None):
        raise ModelError(f"attention with soft-capped scores (attn_logit_softcapping={softcap}) is not supported")
    layer_windows(config)
    if not getattr(model_class, "_supports_attention_backend", False):
        raise ModelError(f"{model_class.__name__} does not use the attention interface of transformers")
    check_long_positions(config, model_class)
    return rehearse(config, model_class)


def standard_config(config: PreTrainedConfig) -> dict[str, Any]:
    """The configuration under the names that most models use, also where this one has names of its own."""
    aliases = {name: getattr(config, name) for name in config.attribute_map if hasattr(config, name)}
    return {**config.to_dict(), **aliases}


def build_empty(
    config: PreTrainedConfig,
    model_class: type[PreTrainedModel],
    dtype: torch.dtype,
    device: torch.device = torch.device("cpu"),  # noqa: B008 - a value
) -> OffloadedModel:
    """The model without any weight, but with real buffers on ``device``; it is also an OffloadedModel.

    Raises ModelError where it has buffers that are neither stored nor computed.
    """
    parts = {"forward": by_graphs(model_class.forward)}
    offloaded = cast(
        "type[OffloadedModel]", type(f"Offloaded{model_class.__name__}", (OffloadedModel, model_class), parts)
    )
    with torch.device("meta"):
        model: OffloadedModel = offloaded._from_config(  # noqa: SLF001
            config, attn_implementation=register(), experts_implementation=register_experts(), dtype=dtype
        )
    follow_latents(model)
    _fill_buffers(model, device)
    model.register_forward_pre_hook(give_cache, with_kwargs=True)
    model.eval()
    model.positions = Positions.of(config, model_class)
    return model


def _fill_buffers(model: PreTrainedModel, device: torch.device) -> None:
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
        for name in buffers:  # computed on the processor, as transformers does, so that no bit of them differs
            is_persistent = name not in module._non_persistent_buffers_set  # noqa: SLF001
            module.register_buffer(name, module.get_buffer(name).to(device), persistent=is_persistent)


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
