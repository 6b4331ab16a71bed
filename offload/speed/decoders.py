"""Decoders of random weights to time the runtime on, and the folder that they are in for a while."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging


@contextmanager
def folder_in(directory: Path | None) -> Iterator[Path]:
    """A folder that is gone afterwards, and so is ``directory`` if it was not there before."""
    is_new = directory is not None and not directory.exists()
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=directory, prefix="offload-doctor-") as folder:
            yield Path(folder)
    finally:
        if is_new and directory is not None:
            with suppress(OSError):
                directory.rmdir()


def save_dense(folder: Path, layers: int, hidden: int) -> Path:
    """A dense model of random weights in float32."""
    path = folder / f"dense-{layers}"
    config = LlamaConfig(**decoder_sizes(hidden), num_hidden_layers=layers, max_position_embeddings=8192)
    return path if path.exists() else save_model(LlamaForCausalLM(config), path)


def save_wide(folder: Path, layers: int, hidden: int, vocabulary: int) -> Path:
    """One in float32 with a head as large as models have them."""
    config = LlamaConfig(**{**decoder_sizes(hidden), "vocab_size": vocabulary}, num_hidden_layers=layers)
    return save_model(LlamaForCausalLM(config), folder / f"wide-{layers}")


def save_half(folder: Path, layers: int, hidden: int, vocabulary: int) -> Path:
    """One in bfloat16, of another architecture."""
    sizes = {**decoder_sizes(hidden), "vocab_size": vocabulary, "head_dim": 64}
    model: Any = Qwen3ForCausalLM(Qwen3Config(**sizes, num_hidden_layers=layers))
    return save_model(model.to(torch.bfloat16), folder / f"half-{layers}")


def decoder_sizes(hidden: int) -> dict[str, Any]:
    """What the configuration of a small decoder of this width says, whatever its architecture."""
    return {
        "vocab_size": 2048,
        "hidden_size": hidden,
        "intermediate_size": hidden * 11 // 4,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": hidden // 128,
        "eos_token_id": None,
        "tie_word_embeddings": True,
    }


def save_model(model: Any, path: Path) -> Path:
    """Write a transformers model without a word; returns ``path``."""
    with _no_bars():
        model.save_pretrained(path)
    return path


@contextmanager
def _no_bars() -> Iterator[None]:
    """Nobody wants to see how far the writing of a model is that he knows nothing of."""
    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()
