"""Mixtures of experts that transformers registers for causal language modelling, and what we make of each."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, model_type_to_module_name
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

KNOWN_UP_TO = (5, 23)
"""The version of transformers all of whose families are in these tables."""

_HEAD = {"head_dim": 16}
_WINDOWS = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
_FULL = {"layer_types": ["full_attention"] * 3}
_DENSE_FIRST = {"mlp_layer_types": ["dense", "sparse", "sparse"]}
_LATENT = {"num_key_value_heads": 4, "head_dim": 8}

WORKS: dict[str, dict[str, Any]] = {
    "afmoe": _HEAD | _WINDOWS,
    "aria_text": _HEAD,
    "axk1": _LATENT | _DENSE_FIRST,
    "beam": _HEAD | _WINDOWS | _DENSE_FIRST,
    "cohere2_moe": _HEAD | _WINDOWS,
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "dots1": _HEAD | _WINDOWS,
    "ernie4_5_moe": {},
    "exaone_moe": _HEAD | _WINDOWS,
    "flex_olmo": {},
    "flint": _HEAD | _WINDOWS | {"mlp_only_layers": [0]},
    "glm4_moe": _HEAD,
    "glm4_moe_lite": _LATENT | _DENSE_FIRST,
    "gpt_oss": _HEAD | _WINDOWS,
    "granitemoe": {},
    "granitemoe_swa": _WINDOWS,
    "granitemoehybrid": {"layer_types": ["full_attention"] * 3, "position_embedding_type": "rope"},
    "granitemoeshared": {},
    "hunyuan_v1_moe": _HEAD,
    "hy_v3": _HEAD | _DENSE_FIRST,
    "kolibri1": _HEAD | _WINDOWS,
    "laguna": _HEAD | _WINDOWS | _DENSE_FIRST,
    "mellum": _HEAD | _WINDOWS,
    "mimo_v2_flash": _HEAD | _FULL | _DENSE_FIRST,
    "minimax_m2": _HEAD,
    "minimax_m3_vl_text": _HEAD | _FULL,
    "mixtral": {},
    "olmoe": {},
    "phimoe": {},
    "qwen2_moe": {},
    "qwen3_moe": _HEAD,
    "solar_open": _HEAD,
}
"""Changes to ``GENERAL`` by model type."""

_STATES = "layers of type 'linear_attention'"
_INDEXED = "layers of type .*'(indexed|deepseek_sparse|qwen_sparse)_attention'"
_ELSEWHERE = "does not compute its experts through the experts interface of transformers"
_SHAPES = "layers with attention heads of different shapes are not supported"

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "axk2": ({}, _INDEXED),
    "bailing_hybrid": ({}, _STATES),
    "dbrx": ({"attn_config": {"rope_theta": 1e4}}, _ELSEWHERE),
    "deepseek_v32": ({}, _INDEXED),
    "deepseek_v4": ({}, "layers of type 'compressed_sparse_attention'"),
    "doge": ({"is_moe": True}, "attention masks .*not supported"),
    "dots3_note": ({}, _INDEXED),
    "dots3_note_text": ({}, _INDEXED),
    "gemma4": ({}, _SHAPES),
    "gemma4_text": ({}, _SHAPES),
    "glm_moe_dsa": ({}, _INDEXED),
    "granitemoehybrid": ({}, _STATES),
    "hy_v4": ({}, _INDEXED),
    "inkling2_text": ({}, "layers of type 'hybrid'"),
    "inkling_text": ({}, "layers of type 'hybrid'"),
    "jamba": ({}, _STATES),
    "jetmoe": ({}, _ELSEWHERE),
    "kimi_linear": ({}, _STATES),
    "lfm2_moe": ({"num_hidden_layers": 2, "layer_types": ["conv", "full_attention"]}, "layers of type 'conv'"),
    "llama4": ({}, "layers of type 'chunked_attention'"),
    "llama4_text": ({}, "layers of type 'chunked_attention'"),
    "longcat_flash": ({}, _ELSEWHERE),
    "mimo_v2_flash": ({}, _SHAPES),
    "minimax": ({}, _STATES),
    "minimax_m3_vl_text": ({"num_hidden_layers": 1, "layer_types": ["minimax_m3_sparse"]}, "'minimax_m3_sparse'"),
    "nemotron_h": ({}, _STATES),
    "qwen3_5_moe": ({}, _STATES),
    "qwen3_5_moe_text": ({}, _STATES),
    "qwen3_next": ({}, _STATES),
    "qwen4_exp": ({}, _INDEXED),
    "qwen4_exp_text": ({}, _INDEXED),
    "zaya": ({}, "layers of type 'hybrid'"),
}
"""Changes to the configuration that transformers makes by itself, and the reason given (a pattern), by model type."""

GENERAL: dict[str, object] = {
    "num_hidden_layers": 3,
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"), 6),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_topk", "moe_k"), 2),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"), 1),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size"), 48),
    **dict.fromkeys(("shared_expert_intermediate_size", "shared_intermediate_size"), 32),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group", "first_k_dense_replace", "num_dense_layers"), 1),
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
}
"""What families call the sizes of their experts and latents. Of these a configuration gets what it knows."""


def tiny(model_type: str) -> dict[str, Any]:
    """The changes that make a small mixture of a family, by guess for one that is in no table."""
    known = AutoConfig.for_model(model_type)
    sizes = {name: value for name, value in GENERAL.items() if hasattr(known, name) and name not in known.attribute_map}
    return sizes | WORKS.get(model_type, {})


@cache
def registered() -> frozenset[str]:
    """The model types with experts that this version of transformers registers for causal language modelling."""
    return frozenset(name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if _has_experts(name))


@cache
def registered_otherwise() -> frozenset[str]:
    """Those that have experts and are no causal language models by themselves: towers, encoders with decoders."""
    return frozenset(name for name in CONFIG_MAPPING if _has_experts(name)) - registered()


def working() -> list[str]:
    """Those of WORKS that this version of transformers has, with their experts behind its interface."""
    return sorted(name for name in WORKS.keys() & registered() if "@use_experts_implementation" in _source(name))


def refused() -> list[str]:
    """Those of REFUSED that this version of transformers has."""
    return sorted(REFUSED.keys() & registered())


_EXPERTS_CLASS = re.compile(r"^class \w*(?:Experts?|MoE|Moe)(?![a-z])\w*\(", re.MULTILINE)


def _has_experts(model_type: str) -> bool:
    """By the names of the classes in the file that defines the model, without importing all that there are."""
    return _EXPERTS_CLASS.search(_source(model_type)) is not None


def _source(model_type: str) -> str:
    module = model_type_to_module_name(model_type)
    path = Path(transformers.__file__).parent / "models" / module / f"modeling_{module}.py"
    return path.read_text(encoding="utf-8") if path.is_file() else ""
