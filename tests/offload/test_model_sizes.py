"""Sizes follow from the weight groups and from config.json, whatever family wrote it."""

from dataclasses import replace
from typing import Any

import pytest

from offload.kv.shape import AttentionShape, KVShape
from offload.model_sizes import block_tokens, model_sizes
from offload.plan import ModelSizes
from tiers.block import ExpertKey, WeightGroupKey
from tiers.errors import ModelError
from tiers.weight_tier import STORED, GroupKind, TensorSpec, WeightGroup

CONFIG = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 2,
    "vocab_size": 1000,
    "torch_dtype": "bfloat16",
}
ATTENTION = AttentionShape(KVShape(heads=3, key_dim=64, value_dim=64), query=576, key=192, value=192, output=576)


def _group(name: str, kind: GroupKind, numbers: int, nbytes: int) -> WeightGroup:
    return WeightGroup(WeightGroupKey(name), kind, (TensorSpec(name, "BF16", (numbers,), 0),), nbytes)


def _sizes(
    config: dict[str, Any], *extra: WeightGroup, attention: AttentionShape = ATTENTION, min_block_tokens: int = 64
) -> ModelSizes:
    layers = [_group(f"layers.{i}", "layer", 1000, 4096) for i in range(2)]
    head = [_group("head.0", "head", 500, 8192), _group("head.1", "head", 100, 4096)]
    groups = [*layers, *head, _group("rest", "rest", 10, 4096), *extra]
    return model_sizes(groups, config, attention, min_block_tokens=min_block_tokens)


def test_a_tied_model() -> None:
    sizes = _sizes(CONFIG)
    assert sizes.tied
    assert sizes.resident_embedding_nbytes == 0
    assert sizes.streamable == (("layers.0", 4096), ("layers.1", 4096), ("head.0", 8192), ("head.1", 4096))
    assert sizes.slot_nbytes == 8192
    assert sizes.kv_nbytes_per_token_layer == 2 * 3 * 64 * 2
    assert sizes.flops_per_token == 2 * 2600
    assert sizes.dtype == "bfloat16"
    assert sizes.embedding_row_nbytes == 1152


def test_an_embedding_of_its_own() -> None:
    slices = [_group(f"embedding.{i}", "embedding", 600, 8192) for i in range(2)]
    sizes = _sizes(CONFIG, *slices)
    assert not sizes.tied
    assert sizes.resident_embedding_nbytes == 2 * 8192
    assert sizes.embedding_names == ("embedding.0", "embedding.1")
    assert sizes.flops_per_token == 2 * 2600, "looking a row up is no arithmetic"


def test_a_multimodal_config_keeps_the_decoder_in_text_config() -> None:
    nested = {"text_config": {key: value for key, value in CONFIG.items() if key != "torch_dtype"}, "dtype": "float16"}
    sizes = _sizes(nested)
    assert sizes.kv_nbytes_per_token_layer == _sizes(CONFIG).kv_nbytes_per_token_layer
    assert sizes.dtype == "float16"


def test_without_a_dtype() -> None:
    plain = {key: value for key, value in CONFIG.items() if key != "torch_dtype"}
    assert _sizes(plain).kv_nbytes_per_token_layer == 2 * 3 * 64 * 4


def test_latents() -> None:
    """One for all heads: the cache is small, and what the heads make of it is not."""
    kv = KVShape(heads=1, key_dim=512, value_dim=64)
    latent = 16 * 576
    attention = AttentionShape(kv, query=16 * 192, key=16 * 192, value=16 * 128, output=16 * 128, latent=latent)
    sizes = _sizes(CONFIG, attention=attention)
    assert sizes.kv_nbytes_per_token_layer == 576 * 2
    assert sizes.attention_flops_per_pair == 2 * 2 * 2 * latent
    expanded = replace(attention, latent=0)
    assert sizes.workspace_nbytes_per_token > _sizes(CONFIG, attention=expanded).workspace_nbytes_per_token


def _expert(layer: int, expert: int) -> WeightGroup:
    spec = TensorSpec("w", "BF16", (300,), 0)
    return WeightGroup(ExpertKey(layer, expert, STORED), "expert", (spec,), 4096 * (1 + expert % 2))


def test_experts() -> None:
    """Those that a token does not visit cost no arithmetic; a slot holds the largest."""
    experts = [_expert(1, expert) for expert in range(8)]
    sizes = _sizes({**CONFIG, "num_experts_per_tok": 2, "moe_intermediate_size": 8}, *experts)
    assert sizes.flops_per_token == 2 * (2600 + 2 * 300)
    assert (sizes.num_experts, sizes.experts_per_token, sizes.experts_per_layer_and_token) == (8, 2, 2)
    assert sizes.expert_slot_nbytes == 8192
    assert sizes.layer_nbytes == (4096, 4096)
    routed = 3 * 2 * 576  # of each of two experts what it is given, what it gives, and that weighted; in two bytes
    assert sizes.workspace_nbytes_per_token == _sizes(CONFIG).workspace_nbytes_per_token + 2 * routed


@pytest.mark.parametrize("top_k", [{"moe_k": 3}, {"moe_topk": [2, 3]}, {"num_experts_per_tok": 3}])
def test_experts_that_a_token_visits_by_the_names_of_families(top_k: dict[str, Any]) -> None:
    assert _sizes(CONFIG | top_k, *(_expert(0, expert) for expert in range(4))).experts_per_layer_and_token == 3


@pytest.mark.parametrize("top_k", [{}, {"moe_k": 0}, {"moe_topk": ["2"]}])
def test_experts_without_a_number_to_visit(top_k: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="'num_experts_per_tok' is missing"):
        _sizes(CONFIG | top_k, _expert(0, 0))


@pytest.mark.parametrize(
    ("kv_nbytes", "minimum", "tokens"), [(384, 64, 64), (64, 16, 64), (4096, 16, 16), (96, 64, 128), (6, 64, 2048)]
)
def test_a_block_fills_whole_pages(kv_nbytes: int, minimum: int, tokens: int) -> None:
    assert block_tokens(kv_nbytes, minimum) == tokens
    assert tokens * kv_nbytes % 4096 == 0


def test_the_least_block_can_be_chosen() -> None:
    assert _sizes(CONFIG).kv_block_tokens == 64
    assert _sizes(CONFIG, min_block_tokens=100).kv_block_tokens == 112


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hidden_size": None}, "'hidden_size' is None"),
        ({"vocab_size": "many"}, "'vocab_size' is 'many'"),
        ({"intermediate_size": True}, "'intermediate_size' is True"),
        ({"num_hidden_layers": 3}, "'num_hidden_layers' is 3, but the weights have 2 layers"),
        ({"torch_dtype": "int8"}, "dtype 'int8' is not supported"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(change: dict[str, object], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        _sizes({**CONFIG, **change})
