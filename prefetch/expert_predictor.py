"""The seam of expert prediction: which routed experts of the layers ahead a pass is going to choose."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from prefetch.base import Predictor
from tiers.block import BlockKey


@dataclass(frozen=True, slots=True)
class Routing:
    """What the gate of one layer was given and what it chose, in one pass of ``tokens`` tokens.

    ``gate_input`` is [tokens, hidden], or [tokens, 0] where it is not known, as in a trace without gate inputs;
    ``experts`` [tokens, k] are indices into the layer's experts and ``weights`` [tokens, k] what their outputs are
    weighed by. An index of the number of experts or more marks a choice that was masked.
    """

    layer: int
    gate_input: NDArray[np.float32]
    experts: NDArray[np.int64]
    weights: NDArray[np.float32]


class RoutingObserver(Protocol):
    """Is told what every gate chooses."""

    def observe(self, routing: Routing) -> None:
        """The gate of a layer has chosen; its experts have not been visited yet."""
        ...


class ExpertPredictor(Predictor[BlockKey]):
    """Is told what happens, in the order in which it happens, and says what will be needed.

    A pass is ``begin``, then for each layer with experts ``observe`` and ``predict(layer)``. The router stays the
    authority: a wrong prediction costs time, never tokens.
    """

    def begin(self, tokens: NDArray[np.int64], position: int) -> None:
        """A pass over ``tokens`` [sequences, new tokens] begins; ``position`` is that of the first new ones.

        At position 0 a new request begins. Predictors that go by the layers alone need not care.
        """

    def observe(self, routing: Routing) -> None:
        """The gate of a layer has chosen. Predictors that know the whole path in advance need not care."""
