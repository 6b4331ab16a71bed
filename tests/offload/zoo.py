"""Tiny random models of many architectures, and what plain transformers makes of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import offload
from offload.offloaded_model import OffloadedModel
from tiers.errors import BudgetError

VOCABULARY = 200
_SIZES: dict[str, object] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    # The usual 0.02 makes a random model that repeats its last token whatever it attends to.
    "initializer_range": 0.1,
}


def save_model(path: Path, model_type: str, *, dtype: torch.dtype = torch.float32, **changes: object) -> Path:
    """A seeded random model of four layers; ``changes`` go into its configuration."""
    known = AutoConfig.for_model(model_type)
    sizes = {name: value for name, value in _SIZES.items() if hasattr(known, name) and name not in known.attribute_map}
    config = AutoConfig.for_model(model_type, **{**sizes, **changes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        model: Any = AutoModelForCausalLM.from_config(config)
        # Norms and biases start as ones and zeros, with which a mix-up of two of them goes unnoticed.
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    model.to(dtype).save_pretrained(path)
    return path


def plain_model(path: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    model.eval()
    return model


def make_inputs(prompt: int, padding: tuple[int, ...] = (0,), vocabulary: int = VOCABULARY) -> dict[str, Any]:
    """Random tokens, one row for each length of the padding on its left."""
    generator = torch.Generator().manual_seed(prompt)
    ids = torch.randint(3, vocabulary, (len(padding), prompt), generator=generator)
    mask = torch.ones_like(ids)
    for row, length in enumerate(padding):
        mask[row, :length] = 0
    return {"input_ids": ids, "attention_mask": mask}


def generate(model: PreTrainedModel, inputs: dict[str, Any], new_tokens: int = 8, **options: Any) -> list[list[int]]:
    """The new tokens, greedily; not fewer where one of them ends a sequence."""
    settings = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False, "pad_token_id": 2}
    with torch.inference_mode():
        output: Tensor = model.generate(**inputs, **{**settings, **options})  # type: ignore[operator]  # it is a mixin's
    return output[:, inputs["input_ids"].shape[1] :].tolist()


@contextmanager
def loaded(path: Path, **options: Any) -> Iterator[OffloadedModel]:
    """``offload.load``; at the end the books are in order and all blocks that caches had are back."""
    model = offload.load(path, **options)
    try:
        yield model
        manager = model.runtime.kv.manager
        if any(level.pool.num_used for level in manager.levels):
            model.runtime.kv.make_way()  # a cache that was dropped, not closed
        manager.check()
        assert not any(level.pool.num_used for level in manager.levels), "every block was given back"
    finally:
        model.close()


def smallest_budget(path: Path, nvme_dir: Path, **workload: Any) -> int:
    """The least device memory with which there is a plan."""
    try:
        offload.load(path, device_memory=0, nvme_dir=nvme_dir, **workload)
    except BudgetError as error:
        return error.wanted_bytes
    raise AssertionError("a model in no memory at all")
