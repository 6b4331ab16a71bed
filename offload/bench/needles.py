"""Needles in a text: seeded facts that stand nowhere else, and the questions for them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from tiers.errors import InvalidOptionError

_WORDS = (
    *("amber", "apple", "arrow", "autumn", "basket", "beach", "bread", "bridge", "butter", "canyon", "castle"),
    *("cherry", "circle", "coffee", "copper", "cotton", "desert", "diamond", "dragon", "eagle", "falcon", "feather"),
    *("forest", "garden", "guitar", "hammer", "harbor", "honey", "island", "jacket", "ladder", "lemon"),
)
MOST_NEEDLES = len(_WORDS)
_NUMBERS = (1000, 10_000)


@dataclass(frozen=True, slots=True)
class Needle:
    """Tokens of a question, and of the answer that a model continues it with."""

    question: tuple[int, ...]
    answer: tuple[int, ...]


def hide_needles(
    tokenizer: PreTrainedTokenizerBase, text: Sequence[int], count: int, seed: int
) -> tuple[list[int], list[Needle]]:
    """As many tokens as ``text`` has, with ``count`` facts at even distances, and what asks for each.

    A question is the beginning of its fact, word by word: a small model answers by copying what followed, if its
    attention finds the place. Raises InvalidOptionError for a ``count`` that is not between 1 and MOST_NEEDLES, or for
    which the text is too short.
    """
    if not 1 <= count <= MOST_NEEDLES:
        raise InvalidOptionError(f"needles is {count}; it has to be between 1 and {MOST_NEEDLES}")
    draw = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    facts = [(f"The magic number of {word} is", f" {draw.randrange(*_NUMBERS)}") for word in draw.sample(_WORDS, count)]
    tokens: list[int] = []
    needles: list[Needle] = []
    for index, (question, answer) in enumerate(facts):
        start, end = index * len(text) // count, (index + 1) * len(text) // count
        fact: list[int] = tokenizer(f"\n{question}{answer}.\n").input_ids
        if len(fact) > end - start:
            raise InvalidOptionError(f"{count} needles do not fit in {len(text)} tokens; hide fewer")
        half = (end - start - len(fact)) // 2
        tokens += [*text[start : start + half], *fact, *text[start + half : end - len(fact)]]
        whole: list[int] = tokenizer(f"\n{question}{answer}").input_ids
        asked = len(tokenizer(f"\n{question}").input_ids)
        needles.append(Needle(tuple(whole[:asked]), tuple(whole[asked:])))
    return tokens, needles
