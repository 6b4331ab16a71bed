"""What a model needs of its cache is seen without weights; what it should not do is refused."""

from typing import Any, cast

import pytest
import torch
from transformers import AutoConfig, LlamaConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaForCausalLM

from offload.kv.shape import AttentionShape, KVShape
from offload.rehearsal import rehearse
from tiers.errors import ModelError

SIZES: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50}


def shape_of(model_type: str, **changes: object) -> AttentionShape:
    config = AutoConfig.for_model(model_type, **{**SIZES, **changes})
    return rehearse(config, cast("type[PreTrainedModel]", MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]))


def test_keys_and_values_as_they_are() -> None:
    shape = shape_of("llama", num_key_value_heads=2)
    assert shape == AttentionShape(KVShape(2, 16, 16), query=64, key=32, value=32, output=64)
    assert shape.activations == 3 * (64 + 32)
    assert shape.flops_per_pair == 4 * 64
    assert shape_of("gpt_bigcode", n_embd=64, n_head=4).kv == KVShape(1, 16, 16), "one head for all queries"


def test_values_narrower_than_keys() -> None:
    full = {"layer_types": ["full_attention"] * 2, "mlp_layer_types": ["dense"] * 2}
    shape = shape_of("mimo_v2_flash", head_dim=24, v_head_dim=16, num_key_value_heads=2, **full)
    assert shape == AttentionShape(KVShape(2, 24, 16), query=96, key=48, value=32, output=64)


def test_latents() -> None:
    latents = {"kv_lora_rank": 20, "q_lora_rank": 10, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12}
    shape = shape_of("minicpm3", num_key_value_heads=4, **latents)
    assert shape == AttentionShape(KVShape(1, 20, 8), query=96, key=96, value=48, output=48, latent=4 * 28)


def test_the_configuration_is_left_as_it_was() -> None:
    config = AutoConfig.for_model("llama", pad_token_id=3, **SIZES)
    before = config.to_dict()
    rehearse(config, LlamaForCausalLM)
    assert config.to_dict() == before
    assert config._attn_implementation != "offload_rehearsal"


def model_with(attention: type[LlamaAttention]) -> type[PreTrainedModel]:
    class Changed(LlamaForCausalLM):
        def __init__(self, config: LlamaConfig) -> None:
            super().__init__(config)
            for index, layer in enumerate(self.model.layers):
                layer.self_attn = attention(config, index)

    return Changed


class Twice(LlamaAttention):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        super().forward(*args, **kwargs)
        return super().forward(*args, **kwargs)


class Alone(LlamaAttention):
    """Computes by itself with what the cache gives back."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        past_key_values.update(hidden_states.unsqueeze(1), hidden_states.unsqueeze(1), self.layer_idx)
        return hidden_states, None


class Chosen(LlamaAttention):
    """Tells attention which blocks to heed."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **{**kwargs, "block_indices": torch.zeros(1)})


class Forgetful(LlamaAttention):
    def forward(self, *args: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


class Convolving(LlamaAttention):
    def forward(self, *args: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        return past_key_values.get_conv_state(self.layer_idx)


@pytest.mark.parametrize(
    ("attention", "reason"),
    [
        (Twice, "layer 0 is run more than once for a token"),
        (Alone, "layer 0 computes its attention outside the attention interface"),
        (Chosen, "Chosen gives its attention 'block_indices'; attention of that kind is not supported"),
        (Forgetful, "layer 0 has no keys and values of its own"),
        (Convolving, "does not run with a cache of keys and values"),
    ],
)
def test_what_attention_may_not_do(attention: type[LlamaAttention], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        rehearse(AutoConfig.for_model("llama", **SIZES), model_with(attention))
