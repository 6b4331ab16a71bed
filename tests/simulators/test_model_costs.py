"""Sizes of models that have more than grouped heads and one kind of expert, against what their makers say of them."""

import json
from pathlib import Path
from typing import Any

import pytest

from simulators.model_costs import ModelShape, read_model_shape
from simulators.published import find_published
from tiers.errors import InvalidOptionError

QWEN: dict[str, Any] = {
    "hidden_size": 2048,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 5632,
    "moe_intermediate_size": 1408,
    "shared_expert_intermediate_size": 5632,
    "num_experts": 60,
    "num_experts_per_tok": 4,
    "vocab_size": 151936,
    "tie_word_embeddings": False,
}
"""Qwen1.5-MoE-A2.7B."""

DEEPSEEK: dict[str, Any] = {
    "hidden_size": 2048,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "intermediate_size": 10944,
    "moe_intermediate_size": 1408,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 512,
    "q_lora_rank": None,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "vocab_size": 102400,
    "tie_word_embeddings": False,
}
"""DeepSeek-V2-Lite."""


def shape_of(folder: Path, config: dict[str, Any]) -> ModelShape:
    path = folder / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    return read_model_shape(path)


@pytest.mark.parametrize(("config", "all_of_it", "active"), [(QWEN, 14.3e9, 2.7e9), (DEEPSEEK, 15.7e9, 2.4e9)])
def test_shared_experts_and_dense_layers_count(
    tmp_path: Path, config: dict[str, Any], all_of_it: float, active: float
) -> None:
    shape = shape_of(tmp_path, config)
    assert shape.nbytes / 2 == pytest.approx(all_of_it, rel=0.01)
    # Their makers count the embedding of the input among what a token visits.
    assert shape.active_weights + shape.head_weights == pytest.approx(active, rel=0.12)


def test_latents_are_cached_in_place_of_keys_and_values(tmp_path: Path) -> None:
    shape = shape_of(tmp_path, DEEPSEEK)
    assert shape.kv_nbytes_per_token == 27 * (512 + 64) * 2


def test_a_prompt_makes_keys_of_latents_and_a_token_does_not(tmp_path: Path) -> None:
    shape = shape_of(tmp_path, DEEPSEEK)
    pairs = 1000 * 1001 / 2
    assert shape.attention_flops(1000, 0) == pytest.approx(27 * 16 * 2 * (128 + 64 + 128) * pairs)
    assert shape.attention_flops(1, 999) == pytest.approx(27 * 16 * 2 * (512 + 64 + 512) * 1000)


def test_queries_may_come_of_latents_too(tmp_path: Path) -> None:
    plain, latent = (shape_of(tmp_path, {**DEEPSEEK, "q_lora_rank": rank}) for rank in (None, 256))
    fewer = 2048 * 16 * 192 - 256 * (2048 + 16 * 192)
    assert plain.weights(1) - latent.weights(1) == 27 * fewer


def test_layers_without_experts_as_qwen_names_them(tmp_path: Path) -> None:
    every, some = (shape_of(tmp_path, QWEN | more) for more in ({}, {"decoder_sparse_step": 2, "mlp_only_layers": [1]}))
    assert every.dense_layers == 0
    assert some.dense_layers == 13
    assert some.dense_intermediate == 5632


def test_an_embedding_of_its_own_is_stored_and_not_multiplied_with() -> None:
    llama, smol = (read_model_shape(find_published("models", name)) for name in ("llama-3.1-8b", "smollm2-135m"))
    assert llama.nbytes == pytest.approx(2 * 8.03e9, rel=0.001)
    assert smol.nbytes == pytest.approx(smol.weights(1) * 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_experts_per_tok": None}, "'num_experts_per_tok' is missing"),
        ({"mlp_only_layers": 3}, "'mlp_only_layers' is 3; it must be a list of layers"),
        ({"kv_lora_rank": 512}, "'qk_rope_head_dim' is missing"),
    ],
)
def test_what_a_mixture_has_to_say(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        shape_of(tmp_path, QWEN | change)
