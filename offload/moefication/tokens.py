"""Text as windows of tokens of one length."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from offload.moefication.text import Corpus
from tiers.errors import InvalidOptionError, ModelError

_WINDOW: Final = 512
_LONG_WINDOW: Final = 2048
"""Of held-out text. A model is better the more it has read; this is about where that levels off."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Token ids [windows, tokens]. ``distillation`` starts with what ``calibration`` has."""

    calibration: Tensor
    distillation: Tensor
    held_out: Tensor


def open_tokenizer(path: Path) -> Any:
    """The tokenizer of a model directory; ModelError where there is none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{path}: no tokenizer, without which text cannot be read: {reason}") from None


def make_windows(
    tokenizer: Any,
    corpus: Corpus,
    *,
    calibration_tokens: int,
    distill_tokens: int,
    held_out_tokens: int,
    longest: int,
    seed: int,
) -> Windows:
    """At most so many tokens of a corpus in whole windows, none longer than ``longest``.

    Calibration text is taken evenly from all over. Distillation goes on with any of the corpus, drawn with ``seed``;
    held-out text is taken from the front. InvalidOptionError where the text does not fill a window.
    """
    calibration, more, held_out = (
        torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=torch.long)
        for text in (corpus.calibration, corpus.more, corpus.held_out)
    )
    length = min(_WINDOW, longest, calibration_tokens)
    sample = _cut(calibration, length, corpus)
    count = min(calibration_tokens // length, len(sample))
    sample = sample[torch.linspace(0, len(sample) - 1, count).round().long()]
    every = _cut(torch.cat([calibration, more]), length, corpus)
    drawn = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))
    held = _cut(held_out, min(_LONG_WINDOW, longest, held_out_tokens, max(len(held_out), _WINDOW)), corpus)
    return Windows(
        calibration=sample,
        distillation=torch.cat([sample, every[drawn]])[: distill_tokens // length],
        held_out=held[: held_out_tokens // held.shape[1]],
    )


def _cut(tokens: Tensor, length: int, corpus: Corpus) -> Tensor:
    whole = len(tokens) // length
    if not whole:
        raise InvalidOptionError(
            f"{corpus.source}: text too short; {len(tokens)} tokens where at least {length} are needed, in what is "
            "used to convert and in the sixth of it that is held out"
        )
    return tokens[: whole * length].view(whole, length)
