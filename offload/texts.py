"""Long real texts: the topics of Python's help, which every Python brings along, or a file of the user's."""

import itertools
from pathlib import Path

from offload.tokens import first_tokens, load_tokenizer
from tiers.errors import InvalidOptionError


def help_text() -> str:
    """All 700 KB of it."""
    import pydoc_data.topics

    return Path(pydoc_data.topics.__file__).read_text(encoding="utf-8")


def help_tokens(model: Path, num_tokens: int) -> list[int]:
    """Its first tokens as ``model`` has them; from the beginning again after the last. Raises ModelError."""
    ids = first_tokens(load_tokenizer(model), help_text(), num_tokens)
    return list(itertools.islice(itertools.cycle(ids), num_tokens))


def read_text(path: Path) -> str:
    """InvalidOptionError where a file is no UTF-8 text."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidOptionError(f"--text {path}: cannot be read as UTF-8 ({error}); name a text file") from None


def file_tokens(model: Path, num_tokens: int, path: Path) -> list[int]:
    """The first tokens of a text as ``model`` has them. InvalidOptionError where it is none, or too short."""
    ids = first_tokens(load_tokenizer(model), read_text(path), num_tokens)
    if len(ids) < num_tokens:
        raise InvalidOptionError(f"--text {path}: has {len(ids)} tokens; name a file with at least {num_tokens}")
    return ids[:num_tokens]
