"""The experts of the next layers, guessed by their own gates on what this layer's gate is given."""

from collections.abc import Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from prefetch.base import Prediction
from prefetch.calibration import Calibration
from prefetch.expert_predictor import ExpertPredictor, Routing
from tiers.block import BlockKey, ExpertKey
from tiers.errors import InvalidOptionError

Matrix = NDArray[np.float32]

_PRIOR_OF_MANY = 0.9
"""How sure a guess for many tokens is before any has been tried."""


class NextGatePredictor(ExpertPredictor):
    """Fate's cross-layer gate (arXiv 2502.12224): gates of neighbouring layers are given much the same.

    ``gates[i]`` is the weight of layer i's gate, [experts, hidden], and ``keys[i]`` names its experts; both are empty
    for a layer without a gate. ``top_k`` is how many experts a token visits. ``predict`` names, for a single token, the
    ``most`` likeliest experts of the next layer that has a gate (default ``top_k``); for many tokens, those that their
    ``top_k`` would be, the most popular first. The first layer of the next token is not predicted, since its input is
    unknown.

    With a ``stride`` of 2, ProMoE's (arXiv 2410.22134), the layer after the next one is predicted too: less surely, but
    in time where a transfer takes longer than a layer. Raises InvalidOptionError for a stride below 1.

    The probability is not the gate's, which knows nothing of the change between the layers, but the share of guesses
    for that layer, of that rank and stride, that came true lately: layers differ much. How many of them are fetched is
    not decided here: Fate's ``prefetch_k``, the time of a layer over that of a transfer, is what PrefetchBudget makes
    of a LinkEstimate, which the runtime measures all the time instead of once at the start.
    """

    def __init__(
        self,
        gates: Sequence[Matrix],
        keys: Sequence[Sequence[ExpertKey]],
        top_k: int,
        *,
        most: int | None = None,
        stride: int = 1,
    ) -> None:
        assert len(gates) == len(keys), "as many gates as layers"
        if stride < 1:
            raise InvalidOptionError(f"a stride of {stride} layers looks back; it must be at least 1")
        self._gates = gates
        self._keys = keys
        self._top_k = top_k
        self._most = top_k if most is None else most
        self._stride = stride
        self._input: Matrix | None = None
        self.calibration = Calibration()
        """Kinds: (whether there were many tokens, layer, stride, rank)."""

    def begin(self, tokens: NDArray[np.int64], position: int) -> None:
        self._input = None
        self.calibration.forget()

    def observe(self, routing: Routing) -> None:
        """Counts which guesses came true; keeps what the gate was given for the next guess."""
        self.calibration.settle(routing)
        self._input = routing.gate_input

    def predict(self, step: int) -> list[Prediction[BlockKey]]:
        """The nearest layer first, and of each the likeliest; ``step`` is the layer that was observed."""
        if self._input is None or not self._input.size:
            return []
        ahead = islice((i for i in range(step + 1, len(self._gates)) if self._gates[i].size), self._stride)
        is_many = len(self._input) > 1
        predictions: list[Prediction[BlockKey]] = []
        for stride, layer in enumerate(ahead, 1):
            likely = self._likely(self._input @ self._gates[layer].T)
            kinds = [(is_many, layer, stride, rank) for rank in range(len(likely))]
            # A prompt is often the first thing that a process sees: of many tokens some will want what they seem to.
            priors = [_PRIOR_OF_MANY] * len(likely) if is_many else None
            predictions += self.calibration.guess([self._keys[layer][i] for i in likely], kinds, layer - step, priors)
        return predictions

    def _likely(self, logits: Matrix) -> list[int]:
        """[tokens, experts] -> the experts to name, the likeliest first."""
        if len(logits) == 1:
            likely: list[int] = np.argsort(-logits[0], kind="stable")[: self._most].tolist()
            return likely
        chosen = np.argpartition(-logits, min(self._top_k, logits.shape[1]) - 1, axis=1)[:, : self._top_k]
        popularity = np.bincount(chosen.ravel(), minlength=logits.shape[1])
        order = np.argsort(-popularity, kind="stable")
        return [int(i) for i in order[: np.count_nonzero(popularity)]]
