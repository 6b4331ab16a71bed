"""The experts of the next layer, guessed by its own gate on what this layer's gate is given."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prefetch.base import Prediction
from prefetch.expert_predictor import ExpertPredictor, Routing
from tiers.block import BlockKey, ExpertKey

Matrix = NDArray[np.float32]

_MEMORY = 1 / 64
"""Weight of the latest layer in the share of guesses that came true."""


class NextGatePredictor(ExpertPredictor):
    """Fate's cross-layer gate (arXiv 2502.12224): gates of neighbouring layers are given much the same.

    ``gates[i]`` is the weight of layer i's gate, [experts, hidden], and ``keys[i]`` names its experts; both are empty
    for a layer without a gate. ``predict`` names the ``most`` likeliest experts of the next layer that has a gate. The
    first layer of the next token is not predicted: its input is unknown.

    The probability of a prediction is not the gate's, which knows nothing of the change between the layers, but the
    share of guesses of that rank that came true so far.
    """

    def __init__(self, gates: Sequence[Matrix], keys: Sequence[Sequence[ExpertKey]], most: int) -> None:
        assert len(gates) == len(keys), "as many gates as layers"
        self._gates = gates
        self._keys = keys
        self._input: Matrix | None = None
        self._guessed: tuple[int, list[ExpertKey]] | None = None
        self.accuracy = [0.0] * most
        """By rank, the likeliest first: the share of guesses that came true lately."""

    def observe(self, routing: Routing) -> None:
        """Counts which guesses came true; keeps what the gate was given for the next guess."""
        if self._guessed is not None and self._guessed[0] == routing.layer:
            chosen = set(np.unique(routing.experts).tolist())
            for rank, key in enumerate(self._guessed[1]):
                self.accuracy[rank] += _MEMORY * ((key.expert in chosen) - self.accuracy[rank])
        self._guessed = None
        self._input = routing.gate_input

    def predict(self, step: int) -> list[Prediction[BlockKey]]:
        """The likeliest first; ``step`` is the layer that was observed."""
        ahead = next((i for i in range(step + 1, len(self._gates)) if self._gates[i].size), None)
        if ahead is None or self._input is None:
            return []
        logits = self._input @ self._gates[ahead].T
        odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
        shares = (odds / odds.sum(axis=-1, keepdims=True)).mean(axis=0)
        likely = np.argsort(-shares, kind="stable")[: len(self.accuracy)].tolist()
        guessed = [self._keys[ahead][i] for i in likely]
        self._guessed = (ahead, guessed)
        return [Prediction((key,), share, ahead - step) for key, share in zip(guessed, self.accuracy, strict=False)]
