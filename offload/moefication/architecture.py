"""Which dense models can be converted, and the configuration of the mixture that comes out.

The mixture is a GraniteMoeShared. Of the families with an expert that is always on it is the one that adds nothing else
to a Llama: full rotary embedding, no gate before the shared expert, no norm in the router, and multipliers that are 1.
Its router takes the top k of the logits themselves and only then the softmax, so that logits which are nearly equal
still choose the same experts.
"""

from pathlib import Path
from typing import Any, Final

from transformers import AutoConfig, PreTrainedConfig

from offload.moefication.shape import MoeShape
from tiers.errors import ModelError

DENSE_FAMILIES: Final = ("llama", "mistral", "qwen2")
"""Model types whose layers are those of Llama: rotary attention and a gated feed-forward layer, each after its norm."""

_EXPERT_COUNTS: Final = ("num_experts", "num_local_experts", "n_routed_experts")
_KEPT: Final = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "hidden_act"),
    *("max_position_embeddings", "initializer_range", "rms_norm_eps", "use_cache", "tie_word_embeddings"),
    *("rope_parameters", "pad_token_id", "bos_token_id", "eos_token_id", "dtype"),
)


def read_dense(path: Path) -> PreTrainedConfig:
    """The configuration of a dense model directory; ModelError for a model that cannot be converted."""
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{path}: config.json names no architecture that transformers knows: {reason}") from None
    if any(getattr(config, name, None) for name in _EXPERT_COUNTS):
        raise ModelError(f"{path}: '{config.model_type}' is a mixture of experts already; give a dense model")
    if config.model_type not in DENSE_FAMILIES:
        known = ", ".join(DENSE_FAMILIES)
        raise ModelError(f"{path}: '{config.model_type}' cannot be converted; those that can are {known}")
    if getattr(config, "quantization_config", None):
        raise ModelError(f"{path}: quantised checkpoints cannot be converted; use the original in BF16, F16 or F32")
    if getattr(config, "mlp_bias", False):
        raise ModelError(f"{path}: its feed-forward layers have biases, which experts have not; it cannot be converted")
    if window := getattr(config, "sliding_window", None):
        raise ModelError(f"{path}: attention in a window (sliding_window={window}) cannot be converted")
    return config


def moe_config(dense: PreTrainedConfig, shape: MoeShape) -> PreTrainedConfig:
    """The configuration of the mixture made from such a model."""
    head_dim = getattr(dense, "head_dim", None) or dense.hidden_size // dense.num_attention_heads
    settings: dict[str, Any] = {name: getattr(dense, name) for name in _KEPT}
    if head_dim * dense.num_attention_heads != dense.hidden_size:
        settings["head_dim"] = head_dim
    config: PreTrainedConfig = AutoConfig.for_model(
        "granitemoeshared",
        **settings,
        architectures=["GraniteMoeSharedForCausalLM"],
        attention_bias=has_attention_bias(dense),
        attention_multiplier=head_dim**-0.5,
        num_local_experts=shape.experts,
        num_experts_per_tok=shape.top_k,
        intermediate_size=shape.expert_neurons,
        shared_intermediate_size=shape.shared,
    )
    return config


def has_attention_bias(dense: PreTrainedConfig) -> bool:
    """Whether the projections of attention have biases. Qwen2 has them, except at the output, and no setting for it."""
    return bool(getattr(dense, "attention_bias", dense.model_type == "qwen2"))
