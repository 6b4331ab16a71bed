"""A mixture of experts of 1.74 billion random parameters, 3.5 GB, larger than the memory that its benchmark gives it.

12 layers of 32 experts, 8.65 MB each, of which a token visits 4. What random weights route to is skewed and much the
same for every token: good for measuring how bytes move, not for judging who predicts them.
"""

import gc
import json
from pathlib import Path
from typing import Any

from tiers.partial_directory import PartialDirectory

SEED = 0
VOCABULARY = 49152

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "moe_intermediate_size": 1408,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "max_position_embeddings": 8192,
    "norm_topk_prob": True,
    "tie_word_embeddings": True,
}


def synthetic_moe(directory: Path, num_layers: int = 12) -> Path:
    """The model's directory below ``directory``; written if it is not there yet. Takes 7 GB of memory for a while."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    path = directory / ("synthetic-moe" if num_layers == _SIZES["num_hidden_layers"] else f"synthetic-moe-{num_layers}")
    config = Qwen3MoeConfig(**{**_SIZES, "num_hidden_layers": num_layers})
    if (path / "config.json").is_file():
        found = json.loads((path / "config.json").read_text(encoding="utf-8"))
        if found.get("hidden_size") == config.hidden_size:
            return path
    with PartialDirectory(path) as partial, torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model: Any = Qwen3MoeForCausalLM(config)
        model = model.to(torch.bfloat16)
        model.save_pretrained(partial.path)
        del model
        gc.collect()
    return path
