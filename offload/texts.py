"""A long real text that every Python brings along: the topics of its help. Benchmarks and measurements read it."""

import itertools
from pathlib import Path

from offload.tokens import first_tokens, load_tokenizer


def help_text() -> str:
    """All 700 KB of it."""
    import pydoc_data.topics

    return Path(pydoc_data.topics.__file__).read_text(encoding="utf-8")


def help_tokens(model: Path, num_tokens: int) -> list[int]:
    """Its first tokens as ``model`` has them; from the beginning again after the last. Raises ModelError."""
    ids = first_tokens(load_tokenizer(model), help_text(), num_tokens)
    return list(itertools.islice(itertools.cycle(ids), num_tokens))
