"""How much worse a model predicts a real text with experts in fewer bits."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from offload.experts.note import ExpertNote
from offload.numbers import has_tokenizer
from offload.session import load
from offload.texts import help_tokens

_PIECE = 64


def perplexity(
    model: Path,
    tokens: list[int],
    *,
    piece_tokens: int = _PIECE,
    progress: Callable[[int], None] | None = None,
    **budget: Any,
) -> float:
    """Of ``tokens`` but the first, each after all before it. ``progress`` is told how many were read more.

    The model takes ``piece_tokens`` at a time. ``budget`` is that of ``offload.load``, whose errors are raised.
    """
    ids = torch.tensor([tokens])
    total = 0.0
    offloaded = load(model, prompt_tokens=len(tokens), new_tokens=1, **budget)
    try:
        with torch.inference_mode():
            cache = offloaded.new_cache()
            # Piece by piece: the logits of all positions may be more memory than the model.
            pieces = (ids[:, :-1].split(piece_tokens, dim=1), ids[0, 1:].split(piece_tokens))
            for piece, targets in zip(*pieces, strict=True):
                logits = offloaded(input_ids=piece, past_key_values=cache).logits[0].float()
                total += float(functional.cross_entropy(logits, targets, reduction="sum"))
                if progress:
                    progress(piece.shape[1])
            cache.close()
    finally:
        offloaded.close()
    return math.exp(total / (len(tokens) - 1))


def measure_loss(
    model: Path, packed: Path, num_tokens: int, *, progress: Callable[[int, int], None] | None = None
) -> ExpertNote:
    """Measure what ``packed`` lost against the checkpoint ``model``, write it into the store, and return it.

    Both run with all memory that is free. Measures nothing where the model has no tokenizer, or on fewer than 2 tokens.
    """
    note = ExpertNote.load(packed)
    assert note is not None, "a store without a note has nothing to measure"
    if num_tokens < 2 or not has_tokenizer(model):
        return note
    tokens = help_tokens(model, num_tokens)
    low, done = note.low, 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, (4 if low else 2) * (num_tokens - 1))

    before, after = (perplexity(path, tokens, progress=add) for path in (model, packed))
    if low:
        # Used wherever they may be, not only for what is missing: then the figures hold for every budget.
        decode, prompt = (
            perplexity(packed, tokens, piece_tokens=size, progress=add, miss_precision="low") for size in (1, _PIECE)
        )
        low = replace(low, perplexity_decode=decode, perplexity_prompt=prompt)
    note = replace(note, perplexity_stored=before, perplexity=after, num_tokens=num_tokens, low=low)
    note.save(packed)
    return note
