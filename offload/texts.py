"""A long real text that every Python brings along: the topics of its help. Benchmarks and measurements read it."""

import itertools
from pathlib import Path

from transformers import AutoTokenizer

_MOST_CHARACTERS_PER_TOKEN = 12


def help_text(num_characters: int | None = None) -> str:
    """The beginning of the text, or all of its 700 KB."""
    import pydoc_data.topics

    return Path(pydoc_data.topics.__file__).read_text(encoding="utf-8")[:num_characters]


def help_tokens(model: Path, num_tokens: int, *, skip: int = 0) -> list[int]:
    """Its first tokens, after ``skip`` others, as ``model``'s tokenizer has them; from the beginning again after the
    last."""
    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    text = help_text((skip + num_tokens) * _MOST_CHARACTERS_PER_TOKEN)
    ids: list[int] = tokenizer(text, verbose=False).input_ids
    return list(itertools.islice(itertools.cycle(ids), skip, skip + num_tokens))
