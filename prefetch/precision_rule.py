"""Which of the experts that a pass chose add so little that a lower precision will do."""

from collections.abc import Set as AbstractSet

import numpy as np
from numpy.typing import NDArray

from prefetch.expert_predictor import Routing
from prefetch.miss_precision import MissPrecision, least_popular, miss_precisions


class PrecisionRule:
    """Listens to the gates, and knows of every layer of the pass under way which experts need not be exact.

    In a pass of one token for each sequence it goes by the weights that the gates give (HOBBIT, arXiv 2411.01433): an
    expert has to be exact if it has to be for any of the tokens. In one of a prompt it goes by popularity (Fate, arXiv
    2502.12224): the experts need not be that hold the least chosen 30 % of the choices.
    """

    def __init__(self) -> None:
        self._is_prompt = False
        self._spared: dict[int, AbstractSet[int]] = {}

    def begin(self, tokens: NDArray[np.int64], position: int) -> None:
        """A pass over ``tokens`` [sequences, new tokens] of each."""
        self._is_prompt = tokens.shape[1] > 1
        self._spared = {}

    def observe(self, routing: Routing) -> None:
        """What a gate chose; indices of masked choices are taken along and name nobody."""
        self._spared[routing.layer] = _unpopular(routing) if self._is_prompt else _light(routing)

    def spared(self, layer: int) -> AbstractSet[int]:
        """Numbers of the chosen experts of a layer that need not be exact; others may be among them."""
        return self._spared.get(layer, frozenset())


def _unpopular(routing: Routing) -> AbstractSet[int]:
    return frozenset(least_popular(np.bincount(routing.experts.ravel())).tolist())


def _light(routing: Routing) -> AbstractSet[int]:
    light: set[int] = set()
    exact: set[int] = set()
    for experts, weights in zip(routing.experts.tolist(), routing.weights.tolist(), strict=True):
        for expert, precision in zip(experts, miss_precisions(weights), strict=True):
            (exact if precision is MissPrecision.HIGH else light).add(expert)
    return light - exact
