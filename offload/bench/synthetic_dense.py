"""A dense model of random weights in bfloat16, as large as is asked for: for measuring how bytes move on a GPU.

Its layers have the shapes of a model of eight billion parameters. Written layer by layer, so that it may be larger than
memory.
"""

import json
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig

from tiers.partial_directory import PartialDirectory

SEED: Final = 0
VOCABULARY: Final = 32768
_HIDDEN, _INNER, _HEADS, _KV_HEADS, _HEAD_DIM = 4096, 14336, 32, 8, 128


def synthetic_dense(directory: Path, num_layers: int) -> Path:
    """The model's directory below ``directory``; written if it is not there yet. 0.44 GB a layer, 0.27 GB beside."""
    path = directory / f"synthetic-dense-{num_layers}"
    if (path / "config.json").is_file():
        return path
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=_HIDDEN,
        intermediate_size=_INNER,
        num_hidden_layers=num_layers,
        num_attention_heads=_HEADS,
        num_key_value_heads=_KV_HEADS,
        head_dim=_HEAD_DIM,
        max_position_embeddings=131072,
        tie_word_embeddings=True,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    generator = torch.Generator().manual_seed(SEED)
    with PartialDirectory(path) as partial:
        places: dict[str, str] = {}
        for number in range(-1, num_layers):
            tensors = _ends(generator) if number < 0 else _layer(number, generator)
            name = f"model-{number + 1:05d}.safetensors"
            save_file(tensors, partial.path / name, metadata={"format": "pt"})
            places |= dict.fromkeys(tensors, name)
        index = {"metadata": {}, "weight_map": places}
        (partial.path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
        config.save_pretrained(partial.path)
    return path


def _ends(generator: torch.Generator) -> dict[str, Tensor]:
    return {
        "model.embed_tokens.weight": _random((VOCABULARY, _HIDDEN), generator),
        "model.norm.weight": torch.ones(_HIDDEN, dtype=torch.bfloat16),
    }


def _layer(number: int, generator: torch.Generator) -> dict[str, Tensor]:
    width, kv_width = _HEADS * _HEAD_DIM, _KV_HEADS * _HEAD_DIM
    shapes = {
        "self_attn.q_proj": (width, _HIDDEN),
        "self_attn.k_proj": (kv_width, _HIDDEN),
        "self_attn.v_proj": (kv_width, _HIDDEN),
        "self_attn.o_proj": (_HIDDEN, width),
        "mlp.gate_proj": (_INNER, _HIDDEN),
        "mlp.up_proj": (_INNER, _HIDDEN),
        "mlp.down_proj": (_HIDDEN, _INNER),
    }
    prefix = f"model.layers.{number}"
    tensors = {f"{prefix}.{name}.weight": _random(shape, generator) for name, shape in shapes.items()}
    for name in ("input_layernorm", "post_attention_layernorm"):
        tensors[f"{prefix}.{name}.weight"] = torch.ones(_HIDDEN, dtype=torch.bfloat16)
    return tensors


def _random(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    # The same numbers again and again, for speed, but no row like another: their count is no multiple of a row's.
    numbers = torch.empty(1_000_003, dtype=torch.bfloat16).normal_(std=0.02, generator=generator)
    count = shape[0] * shape[1]
    return numbers.repeat(-(-count // numbers.numel()))[:count].view(shape)
