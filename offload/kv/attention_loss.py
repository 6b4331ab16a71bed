"""What attention to a part of the tokens misses, measured while it is used."""

import math
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CHECKED_EVERY = 32
"""Decode steps of a layer for one of which an engine that reads a part is compared with one that reads all."""


class AttentionLoss:
    """What a sparse engine misses, measured while it is used: one step in so many, each layer by itself.

    ``error`` is the relative L2 distance of its outputs from those of attention to everything that drives hold. That is
    of the drives' part: parts that are attended to elsewhere are exact, and the model sees all of them merged.
    """

    def __init__(self) -> None:
        self._steps: Counter[int] = Counter()
        self._missed = self._whole = 0.0

    @property
    def error(self) -> float | None:
        return math.sqrt(self._missed / self._whole) if self._whole else None

    def wants(self, layer: int) -> bool:
        """Whether this step of a layer is one to compare; layers take turns, so that no step waits for all of them."""
        self._steps[layer] += 1
        return (self._steps[layer] + layer) % _CHECKED_EVERY == 1

    def note(self, found: NDArray[Any], whole: NDArray[Any]) -> None:
        """The outputs of a step, and what they should have been."""
        whole = whole.astype(np.float64)
        self._missed += float(np.square(found - whole).sum())
        self._whole += float(np.square(whole).sum())
