"""Token ids in place of text, for models that come without a tokenizer."""

from collections.abc import Sequence
from pathlib import Path

from tiers.errors import InvalidOptionError


class Numbers:
    """Writes tokens as their ids, each with a space before it, where a tokenizer would write text."""

    def decode(self, ids: Sequence[int], **_: object) -> str:
        """The ids of one sequence."""
        return "".join(f" {token}" for token in ids)


def has_tokenizer(model: Path) -> bool:
    """Whether a model directory holds any file of a tokenizer."""
    names = ("tokenizer*", "vocab*", "spiece.model", "merges.txt")
    return any(next(model.glob(name), None) is not None for name in names)


def parse_ids(option: str, text: str) -> list[int]:
    """Token ids from "1,2,3", with or without spaces. Raises InvalidOptionError."""
    words = text.replace(",", " ").split()
    if not words or not all(word.isdecimal() for word in words):
        raise InvalidOptionError(f"{option} {text[:40]!r}: not a list of token ids; write for example 1,2,3")
    return [int(word) for word in words]
