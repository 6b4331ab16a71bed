"""Latents in the cache, and heads that meet them there: what attention to keys and values made of them gives."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import DeepseekV3Config, DynamicCache
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention

from offload.attention.interface import register
from offload.attention.latent import follow_latents, take_latent_layer
from offload.attention.padding import padding_mask
from offload.kv.cache import TieredCache
from tests.offload.kv.kit import open_store, used_slots
from tiers.errors import ModelError

RANK, ROTATED, HIDDEN = 10, 6, 32


def make_attention(implementation: str) -> DeepseekV3Attention:
    """Four heads whose keys are as wide as 14 numbers and whose values as 7; always the same weights."""
    config = DeepseekV3Config(
        hidden_size=HIDDEN,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        q_lora_rank=12,
        kv_lora_rank=RANK,
        qk_nope_head_dim=8,
        qk_rope_head_dim=ROTATED,
        v_head_dim=7,
    )
    config._attn_implementation = implementation
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        attention = DeepseekV3Attention(config, 0).eval()
    follow_latents(nn.ModuleList([attention]))
    return attention


def positions(first: int, last: int) -> tuple[Tensor, Tensor]:
    angles = torch.arange(first, last).unsqueeze(1) * torch.logspace(0, -2, ROTATED // 2).repeat(2)
    return angles.cos().unsqueeze(0), angles.sin().unsqueeze(0)


@given(
    cuts=st.sets(st.integers(1, 29), max_size=8),
    padded=st.integers(0, 20),
    device=st.integers(0, 6),
    host=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_latents_are_attended_to_where_they_are(cuts: set[int], padded: int, device: int, host: bool) -> None:
    """Whatever the chunks, the padding, and the room on the device."""
    total = 30
    hidden = torch.randn(2, total, HIDDEN, generator=torch.Generator().manual_seed(padded))
    visible = torch.ones(2, total, dtype=torch.bool)
    visible[1, :padded] = False
    plain, ours = make_attention("eager"), make_attention(register())
    seen = torch.ones(total, total, dtype=torch.bool).tril() & visible[:, None, None, :]
    with torch.inference_mode():
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
        expected = plain(hidden, positions(0, total), mask, DynamicCache(config=plain.config))[0]
        slots = 3 + device if host else 16
        with open_store(slots, host=16 if host else 0, shape=(1, RANK, ROTATED)) as store:
            with TieredCache(store, ours.config) as cache:
                for start, stop in pairwise([0, *sorted(cuts), total]):
                    padding = padding_mask(kv_length=stop, attention_mask=visible[:, :stop])
                    found = ours(hidden[:, start:stop], positions(start, stop), padding, cache)[0]
                    is_real = visible[:, start:stop]
                    torch.testing.assert_close(found[is_real], expected[:, start:stop][is_real], atol=1e-5, rtol=1e-4)
                    store.manager.check()
            assert not any(used_slots(store))


def test_without_a_cache() -> None:
    hidden = torch.randn(1, 9, HIDDEN, generator=torch.Generator().manual_seed(0))
    plain, ours = make_attention("eager"), make_attention(register())
    mask = torch.full((9, 9), torch.finfo(torch.float32).min).triu(1)[None, None]
    with torch.inference_mode():
        expected = plain(hidden, positions(0, 9), mask)[0]
        torch.testing.assert_close(ours(hidden, positions(0, 9), None)[0], expected, atol=1e-5, rtol=1e-4)


def test_a_layer_is_told_of_once() -> None:
    """Or a pass without a cache would find the tokens of the one before."""
    ours = make_attention(register())
    with open_store(4, shape=(1, RANK, ROTATED)) as store, TieredCache(store, ours.config) as cache:
        latents, rotated = cache.update(torch.randn(1, 1, 3, RANK), torch.randn(1, 1, 3, ROTATED), 0)
        ours.expand_kv(latents, rotated)
        assert take_latent_layer(ours) is cache.layers[0]
        assert take_latent_layer(ours) is None


def test_latents_of_an_unknown_form_are_refused() -> None:
    class Other(nn.Module):
        def expand_kv(self) -> None: ...

    with pytest.raises(ModelError, match="0 makes keys and values of latents in a way that is not supported"):
        follow_latents(nn.ModuleList([Other()]))
