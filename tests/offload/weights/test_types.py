"""Tensors of another type than the rest: those that transformers keeps in float32 too, and no others."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from offload.pack import pack
from tests.offload.experts.families import tiny
from tests.offload.zoo import loaded, make_inputs, plain_model, save_model
from tiers.errors import ModelError

WORKLOAD = {"prompt_tokens": 20, "new_tokens": 4}
BIAS = "model.layers.1.mlp.gate.e_score_correction_bias"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """In bfloat16, as transformers loads and saves it: what is added to the scores of experts stays in float32."""
    half = save_model(tmp_path / "half", "glm4_moe", dtype=torch.bfloat16, **tiny("glm4_moe"))
    plain_model(half, torch.bfloat16).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("packed", [False, True])
def test_what_transformers_keeps_in_float32(path: Path, packed: bool, tmp_path: Path) -> None:
    where = path
    if packed:
        where = tmp_path / "packed"
        pack(path, where)
    plain, ids = plain_model(path, torch.bfloat16), make_inputs(20)["input_ids"]
    with loaded(where, **WORKLOAD) as model, torch.inference_mode():
        assert model.dtype == torch.bfloat16
        assert model.get_buffer(BIAS).dtype == torch.float32
        assert torch.equal(model.get_buffer(BIAS), plain.get_buffer(BIAS))
        torch.testing.assert_close(model(ids).logits, plain(ids).logits, atol=0.1, rtol=0.1)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        (BIAS, torch.float16),
        ("model.layers.1.input_layernorm.weight", torch.float32),
        ("model.layers.1.mlp.experts.2.up_proj.weight", torch.float32),
        ("lm_head.weight", torch.float32),
    ],
)
def test_other_types_are_refused(path: Path, name: str, dtype: torch.dtype) -> None:
    tensors = load_file(path / "model.safetensors")
    tensors[name] = tensors[name].to(dtype)
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    with (
        pytest.raises(ModelError, match=r"tensors of several types \(BF16, .*F.*\); pack it with one --dtype"),
        loaded(path, **WORKLOAD),
    ):
        raise AssertionError("was loaded")
