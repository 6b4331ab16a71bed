"""Architectures: which run, token for token as without offloading, and which are refused, and why."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from offload.old_transformers import is_old
from tests.offload.zoo import generate, loaded, make_inputs, plain_model, save_model, smallest_budget
from tiers.errors import ModelError

if TYPE_CHECKING:
    from offload.plan import Plan

PROMPT, NEW = 150, 6
PADDING = (0, 75)
"""In chunks of 64 tokens the second row begins with one that is padding alone."""

_MIXED = ["sliding_attention", "full_attention"] * 2
_LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 8,
    "long_factor": [2.0] * 8,
}
_OWN_NAMES = {"n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 512}

_LATENT = {
    "kv_lora_rank": 24,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "num_key_value_heads": 4,
}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"tie_word_embeddings": True}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama 3 positions": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 1e4,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "qwen2": ("qwen2", {}),
    "qwen2 with windows": ("qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "mistral": ("mistral", {"sliding_window": 24}),
    "gemma": ("gemma", {"head_dim": 16}),
    "gemma3": ("gemma3_text", {"head_dim": 16, "sliding_window": 70, "layer_types": _MIXED}),
    "phi": ("phi", {}),
    "phi3": ("phi3", {"rope_parameters": _LONG_ROPE, "original_max_position_embeddings": 400}),
    "opt": ("opt", {"ffn_dim": 96, "word_embed_proj_dim": 32, "do_layer_norm_before": False}),
    "gpt2": ("gpt2", _OWN_NAMES),
    "gpt_bigcode": ("gpt_bigcode", _OWN_NAMES),
    "gpt_neox": ("gpt_neox", {}),
    "olmo2": ("olmo2", {}),
    "olmo3": ("olmo3", {"sliding_window": 16, "layer_types": _MIXED}),
    "smollm3": ("smollm3", {}),
    "granite": ("granite", {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.5}),
    "cohere": ("cohere", {"logit_scale": 0.25, "use_qk_norm": True, "tie_word_embeddings": True}),
    "cohere2": ("cohere2", {"head_dim": 16, "sliding_window": 16, "layer_types": _MIXED}),
    "starcoder2": ("starcoder2", {"sliding_window": 100}),
    "glm4": ("glm4", {"head_dim": 16}),
    "exaone4": ("exaone4", {"sliding_window": 16, "layer_types": _MIXED}),
    "nemotron": ("nemotron", {"head_dim": 16}),
    "apertus": ("apertus", {}),
    "minicpm3, latents": ("minicpm3", _LATENT),
    "minicpm3, long positions": (
        "minicpm3",
        _LATENT
        | {"rope_parameters": _LONG_ROPE | {"factor": 4.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}},
    ),
    "youtu, latents": ("youtu", _LATENT | {"head_dim": 8}),
    "deepseek_v3, latents": (
        "deepseek_v3",
        _LATENT | {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "head_dim": 8},
    ),
    "gpt_oss": (
        "gpt_oss",
        {"head_dim": 16, "sliding_window": 16, "layer_types": _MIXED, "num_local_experts": 4, "num_experts_per_tok": 2},
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_same_tokens(tmp_path: Path, family: str) -> None:
    """With everything on the device, in the smallest budget that there is, and between the two."""
    model_type, changes = FAMILIES[family]
    path = save_model(tmp_path / "model", model_type, **changes)
    inputs = make_inputs(PROMPT, PADDING)
    expected = generate(plain_model(path), inputs, NEW)
    workload = {"prompt_tokens": PROMPT, "new_tokens": NEW, "batch": len(PADDING)}
    plans: list[Plan] = []
    least = smallest_budget(path, tmp_path / "nvme", **workload)
    for share in (1.0, 0.2, 0.0):
        budget = {}
        if share < 1:
            most = plans[0].device_bytes_used
            budget = {"device_memory": int(least + share * (most - least)), "nvme_dir": tmp_path / "nvme"}
        with loaded(path, **workload, **budget) as model:
            assert generate(model, inputs, NEW) == expected
            plans.append(model.plan)
    assert not plans[0].streamed
    assert any(plan.kv_nvme_blocks for plan in plans[1:])
    assert plans[2].streamed
    assert plans[2].prefill_chunk_tokens < PROMPT


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "bloom": ({"n_head": 4, "n_layer": 2}, "BloomForCausalLM does not use the attention interface"),
    "falcon": ({"alibi": True}, "FalconForCausalLM does not use the attention interface"),
    "mamba": ({"state_size": 8}, "layers of type 'linear_attention' are not supported"),
    "gemma2": ({"head_dim": 16}, r"soft-capped scores \(attn_logit_softcapping=50.0\) is not supported"),
    "bert": ({}, r"it looks ahead \(is_causal=False\)"),
    "diffllama": ({"attention_dropout": 0.0}, "DiffLlamaAttention changes keys or values on their way from the cache"),
    "doge": ({}, "bidirectional, packed and block-wise attention masks|attention masks of queries x keys"),
    "moshi": ({"sliding_window": 16, "head_dim": 16, "ffn_dim": 96}, "window of None where config.json says 16"),
    "gemma4_text": (
        {"head_dim": 16, "global_head_dim": 32, "layer_types": _MIXED, "vocab_size_per_layer_input": 50},
        "attention heads of different shapes are not supported",
    ),
}


if is_old():
    REFUSED["phi3"] = (FAMILIES.pop("phi3")[1], "upgrade transformers")


@pytest.mark.parametrize("model_type", REFUSED)
def test_refused_before_anything_is_read(tmp_path: Path, model_type: str) -> None:
    changes, reason = REFUSED[model_type]
    path = save_model(tmp_path / "model", model_type, **changes)
    with pytest.raises(ModelError, match=reason) as raised, loaded(path, prompt_tokens=20, new_tokens=4):
        raise AssertionError("was loaded")
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(f"{path}: '{model_type}' cannot be offloaded: ")
