"""Small random checkpoints, and the plain way to read back what a weight tier serves."""

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from tiers.weight_tier import WeightTier

TORCH_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def save_llama(
    path: Path, *, tied: bool = False, dtype: torch.dtype = torch.float32, max_shard_size: str = "5GB", **changes: int
) -> Path:
    """A seeded random Llama of three layers and an odd vocabulary, saved as transformers saves it."""
    sizes: dict[str, Any] = {
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 112,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        **changes,
    }
    config = LlamaConfig(**sizes, max_position_embeddings=128, tie_word_embeddings=tied)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model: Any = LlamaForCausalLM(config)
    model.to(dtype).save_pretrained(path, max_shard_size=max_shard_size)
    return path


def stored_tensors(path: Path) -> dict[str, torch.Tensor]:
    """What the safetensors library finds in a directory."""
    return {name: t for file in sorted(path.glob("*.safetensors")) for name, t in load_file(file).items()}


def tensors_of(tier: WeightTier) -> dict[str, torch.Tensor]:
    """Read every group into an aligned buffer and put the row slices together again."""
    slices: dict[str, list[torch.Tensor]] = {}
    for slot, group in enumerate(tier.groups):
        block = memoryview(mmap.mmap(-1, tier.block_nbytes))
        tier.read(slot, block)
        for spec in group.tensors:
            raw = np.frombuffer(block, np.uint8)[spec.offset : spec.offset + spec.nbytes].copy()
            tensor = torch.from_numpy(raw).view(TORCH_DTYPES[spec.dtype]).reshape(spec.shape)
            parts = slices.setdefault(spec.name, [])
            assert sum(part.shape[0] for part in parts) == group.first_row
            parts.append(tensor)
    return {name: torch.cat(parts) if len(parts) > 1 else parts[0] for name, parts in slices.items()}


def assert_same_tensors(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name
