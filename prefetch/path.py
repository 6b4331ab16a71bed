"""The experts of all layers, known or guessed from the tokens before the first layer is computed."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from prefetch.base import Prediction
from prefetch.calibration import Calibration
from prefetch.expert_predictor import ExpertPredictor, Routing
from tiers.block import BlockKey, ExpertKey

_BINS = 16


class Paths(Protocol):
    """What foresees whole paths: ExpertFlow's routing path predictor, Read-ME's router apart from the backbone."""

    def __call__(self, tokens: NDArray[np.int64], position: int) -> NDArray[np.float32]:
        """[sequences, new tokens] ids at ``position`` -> [tokens, layers with experts, experts] probabilities.

        Tokens in the order of the rows; 0 and 1 where the path is certain. At position 0 a new request begins: what was
        said of the tokens before no longer counts.
        """
        ...


class PathPredictor(ExpertPredictor):
    """Names the experts of the next ``lookahead`` layers by paths that are known when a pass begins.

    ``keys[i]`` names the experts of layer i, empty for a layer without; ``paths`` gives the others in their order. The
    pass needs an expert if at least one of its tokens does: 1 - prod(1 - p), with tokens taken as independent. What is
    less probable than ``least`` is not named.

    Real-time correction (ExpertFlow, arXiv 2410.17954): the gates' true choices say how far the paths can
    be relied on. Unless they are exact, a prediction carries the share of those of like probability that came true.
    """

    def __init__(
        self,
        keys: Sequence[Sequence[ExpertKey]],
        paths: Paths,
        *,
        lookahead: int | None = None,
        least: float = 0.1,
        is_exact: bool = False,
    ) -> None:
        self._layers = [layer for layer, of_layer in enumerate(keys) if of_layer]
        self._keys = keys
        self._paths = paths
        self._lookahead = len(keys) if lookahead is None else lookahead
        self._least = least
        self._is_exact = is_exact
        self._ranked: dict[int, list[tuple[ExpertKey, float]]] = {}
        """By layer, what the pass needs with what probability; the most probable first."""
        self._is_many = False
        self.calibration = Calibration()
        """Kinds: (whether there were many tokens, sixteenths of probability)."""

    def begin(self, tokens: NDArray[np.int64], position: int) -> None:
        """Asks for the paths of the pass."""
        self._is_many = tokens.size > 1
        paths = self._paths(tokens, position)
        assert paths.shape[:2] == (tokens.size, len(self._layers)), "a probability for every token, layer and expert"
        self._ranked = {}
        self.calibration.forget()
        for layer, needed in zip(self._layers, 1.0 - np.prod(1.0 - paths, axis=0), strict=True):
            order = np.argsort(-needed, kind="stable")[: np.count_nonzero(needed >= self._least)]
            ranked = self._ranked[layer] = [(self._keys[layer][i], float(needed[i])) for i in order]
            self.calibration.guess(
                [key for key, _ in ranked], [self._kind(p) for _, p in ranked], 0, [p for _, p in ranked]
            )

    def observe(self, routing: Routing) -> None:
        self.calibration.settle(routing)

    def predict(self, step: int) -> list[Prediction[BlockKey]]:
        """The nearest layer first, and of each the most probable."""
        return [
            Prediction((key,), self._probability(p), layer - step)
            for layer in [layer for layer in self._layers if layer > step][: self._lookahead]
            for key, p in self._ranked.get(layer, ())
        ]

    def _probability(self, p: float) -> float:
        return p if self._is_exact else self.calibration.share(self._kind(p), p)

    def _kind(self, p: float) -> tuple[bool, int]:
        return self._is_many, min(int(p * _BINS), _BINS - 1)
