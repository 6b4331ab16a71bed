"""Weighted sums of experts are made of these: what each expert says to the tokens that chose it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from offload.experts.layout import ExpertWeights, activate
from tiers.block import ExpertKey

Groups = Iterable[Sequence[tuple[ExpertKey, ExpertWeights]]]
"""Experts as they become ready, those together that are ready together."""

_MOST_ALONE = 2**20
"""Bytes of an expert whose products a thread finishes sooner than another one wakes up."""
_TOKENS_FOR_ONE = 8
"""As many tokens cost about as much as one: reading the weights takes as long as multiplying them."""


def for_one_token(module: Any, token: Tensor, places: Mapping[int, Sequence[int]], groups: Groups, k: int) -> Tensor:
    """[1, hidden] -> [k, hidden]: the outputs of the experts in their ``places``; zeros where there is none.

    Between the matrices all are computed at once. They take the same places whichever of them are there, so that the
    result does not depend on it by a bit.
    """
    outputs: list[Tensor | None] = [None] * k
    for group in groups:
        inner = [weights.up_of(token) for _, weights in group]
        rows = [inner[0]] * k
        for (key, _), row in zip(group, inner, strict=True):
            rows[places[key.expert][0]] = row
        activated = activate(module, torch.cat(rows) if k > 1 else rows[0]).split(1)
        for key, weights in group:
            output = weights.down_of(module, activated[places[key.expert][0]])
            for place in places[key.expert]:
                outputs[place] = output
    nothing = token.new_zeros(token.shape)
    return torch.cat([nothing if output is None else output for output in outputs])


def for_many_tokens(module: Any, tokens: Tensor, places: Mapping[int, Tensor], groups: Groups, k: int) -> Tensor:
    """[tokens, hidden] -> [tokens * k, hidden], where ``places`` are those of each expert."""
    outputs = tokens.new_zeros(tokens.shape[0] * k, tokens.shape[1])
    for group in groups:
        for key, weights in group:
            rows = places[key.expert]
            outputs[rows] = weights.apply(module, tokens[rows // k])
    return outputs


@contextmanager
def suitable_threads(expert_nbytes: int, tokens: float) -> Iterator[None]:
    """As many threads as pay off for experts of that size with so many tokens each: all that there are, or one.

    A thread of OpenMP that has gone to sleep takes some 50 us to wake up, for every product again.
    """
    threads = torch.get_num_threads()
    if threads == 1 or expert_nbytes * max(1.0, tokens / _TOKENS_FOR_ONE) > _MOST_ALONE:
        yield
        return
    torch.set_num_threads(1)  # takes a tenth of a microsecond
    try:
        yield
    finally:
        torch.set_num_threads(threads)
