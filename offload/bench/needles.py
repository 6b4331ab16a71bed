"""Needles in a text: seeded facts that stand nowhere else, and the questions for them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from tiers.errors import InvalidOptionError

_NAMES = ("Anna", "Boris", "Clara", "Dmitri", "Elena", "Felix", "Greta", "Hassan")
_PLACES = ("Porto", "Lagos", "Quito", "Oslo", "Kyoto", "Perth", "Turin", "Cairo")
_THINGS = ("violin", "bicycle", "telescope", "umbrella", "camera", "lantern", "suitcase", "typewriter")
MOST_NEEDLES = len(_THINGS)
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

    A question shares enough words with its fact for a small model to find it. Raises InvalidOptionError
    for a ``count`` that is not between 1 and MOST_NEEDLES.
    """
    if not 1 <= count <= MOST_NEEDLES:
        raise InvalidOptionError(f"needles is {count}; it has to be between 1 and {MOST_NEEDLES}")
    draw = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    subjects = zip(*(draw.sample(words, count) for words in (_NAMES, _PLACES, _THINGS)), strict=True)
    facts = [
        (f"Note on the {thing} of {name} from {place}: its number is", f" {draw.randrange(*_NUMBERS)}")
        for name, place, thing in subjects
    ]
    tokens: list[int] = []
    needles: list[Needle] = []
    for index, (question, answer) in enumerate(facts):
        start, end = index * len(text) // count, (index + 1) * len(text) // count
        fact: list[int] = tokenizer(f"\n\n{question}{answer}.\n\n").input_ids
        half = (end - start - len(fact)) // 2
        tokens += [*text[start : start + half], *fact, *text[start + half : end - len(fact)]]
        whole: list[int] = tokenizer(f"\n\n{question}{answer}").input_ids
        asked = len(tokenizer(f"\n\n{question}").input_ids)
        needles.append(Needle(tuple(whole[:asked]), tuple(whole[asked:])))
    return tokens, needles
