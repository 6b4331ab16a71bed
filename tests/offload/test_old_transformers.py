"""Each thing that an old transformers gets wrong is refused with a way out, and nothing else is."""

from typing import Any

import pytest
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from offload import old_transformers
from offload.old_transformers import check_long_positions, pieces_after
from tiers.errors import InvalidOptionError, ModelError

LONG_ROPE: Any = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
SIZES: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4, "pad_token_id": 0}


@pytest.mark.parametrize(("version", "is_old"), [("5.17.0", True), ("5.20.2", True), ("5.21.0", False)])
def test_pieces_after_a_cache(monkeypatch: pytest.MonkeyPatch, version: str, is_old: bool) -> None:
    monkeypatch.setattr(old_transformers, "_INSTALLED", version)
    assert pieces_after(500, 64, 64) is None
    if is_old:
        with pytest.raises(InvalidOptionError, match=f"65 tokens after the 500 .*upgrade transformers {version} to"):
            pieces_after(500, 65, 64)
    else:
        assert pieces_after(500, 65, 64) == 64


def test_long_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    phi3 = Phi3Config(rope_parameters=LONG_ROPE, original_max_position_embeddings=400, **SIZES)
    monkeypatch.setattr(old_transformers, "_INSTALLED", "5.21.0")
    check_long_positions(phi3, Phi3ForCausalLM)
    monkeypatch.setattr(old_transformers, "_INSTALLED", "5.19.1")
    with pytest.raises(ModelError, match=r"context of 400 tokens.*upgrade transformers 5.19.1 to 5.21 or later"):
        check_long_positions(phi3, Phi3ForCausalLM)
    with pytest.raises(ModelError, match="beyond its original context of 400 tokens"):
        check_long_positions(Phi3Config(original_max_position_embeddings=400, **SIZES), Phi3ForCausalLM)
    check_long_positions(Phi3Config(**SIZES), Phi3ForCausalLM)
    check_long_positions(LlamaConfig(rope_parameters=LONG_ROPE, **SIZES), LlamaForCausalLM)
