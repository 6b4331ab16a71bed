"""At which precision a missing expert is worth loading: HOBBIT's thresholds for a token, Fate's share for a prompt."""

from collections.abc import Sequence
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from tiers.errors import InvalidOptionError


class MissPrecision(Enum):
    """What to do about an expert that is chosen and not there."""

    HIGH = "high"
    LOW = "low"
    SKIP = "skip"


def miss_precisions(
    weights: Sequence[float], high: float = 0.6, low: float = 0.9, *, may_skip: bool = False
) -> list[MissPrecision]:
    """For each expert of one token, by the ``weights`` that the gate gives to them, in the order given.

    An expert that adds little to a sum that is nearly complete may be less exact (arXiv 2411.01433): with
    the weights sorted and their sum 1, s is what those before it add up to; the expert is loaded in high precision up
    to s = ``high``, in low precision up to s = ``low``, and not at all beyond. Leaving experts out changes tokens more
    than a low precision does, so it takes ``may_skip``; else the rest is loaded in low precision too. Raises
    InvalidOptionError for thresholds that are not 0 <= high <= low, or for a negative weight.
    """
    if not 0.0 <= high <= low:
        raise InvalidOptionError(f"thresholds of {high} and {low}: they must rise, from 0 on")
    if any(weight < 0.0 for weight in weights):
        raise InvalidOptionError(f"gate weights {list(weights)}: none may be negative")
    total = sum(weights) or 1.0
    precisions = [MissPrecision.HIGH] * len(weights)
    before = 0.0
    for i in sorted(range(len(weights)), key=lambda i: -weights[i]):
        if before > low and may_skip:
            precisions[i] = MissPrecision.SKIP
        elif before > high:
            precisions[i] = MissPrecision.LOW
        before += weights[i] / total
    return precisions


def least_popular(counts: NDArray[np.int64], share: float = 0.3) -> NDArray[np.int64]:
    """The experts that were chosen least often, which together got at most ``share`` of all choices.

    ``counts`` [experts] says how often each was; of equals the first is less popular. Fate (arXiv 2502.12224) loads
    these in two bits when it takes a prompt.
    """
    order = np.argsort(counts, kind="stable")
    within: NDArray[np.int64] = order[np.cumsum(counts[order]) <= share * counts.sum()]
    return within
