"""How often guesses come true: the probability that a prediction should carry."""

from collections.abc import Hashable, Iterable, Sequence
from itertools import repeat

from prefetch.base import Prediction
from prefetch.expert_predictor import Routing
from tiers.block import BlockKey, ExpertKey

_MEMORY = 1 / 64
"""Weight of the latest guess."""


class Calibration:
    """The share of the guesses of a kind that came true lately.

    What a predictor scores experts by, such as the softmax of a gate, knows nothing of how much changes before the need
    comes. A kind is whatever the guesses are told apart by: their rank, or how sure the predictor itself was. Of a kind
    that was never tried the share is what ``prior`` says, and counts as much as one guess.

    Passes of many tokens use most experts, so that nearly every guess comes true. They say nothing of passes of a
    single token and are counted apart.
    """

    def __init__(self) -> None:
        self._shares: dict[Hashable, tuple[float, int]] = {}
        self._guesses: dict[int, list[tuple[int, Hashable]]] = {}
        """By layer, the experts that were guessed since it was last settled, and the kinds of the guesses."""

    def share(self, kind: Hashable, prior: float = 0.0) -> float:
        """Of 0 to 1."""
        return self._shares.get(kind, (prior, 1))[0]

    def guess(
        self, keys: Sequence[ExpertKey], kinds: Iterable[Hashable], steps: int, priors: Iterable[float] | None = None
    ) -> list[Prediction[BlockKey]]:
        """One prediction for each key, ``steps`` ahead, in the same order; each is remembered until it is settled."""
        predictions: list[Prediction[BlockKey]] = []
        for key, kind, prior in zip(keys, kinds, priors or repeat(0.0), strict=False):
            share, _ = self._shares.setdefault(kind, (prior, 1))
            self._guesses.setdefault(key.layer, []).append((key.expert, kind))
            predictions.append(Prediction((key,), share, steps))
        return predictions

    def settle(self, routing: Routing) -> None:
        """Compare the guesses for a layer with what its gate chose."""
        guesses = self._guesses.pop(routing.layer, None)
        if not guesses:
            return
        chosen = set(routing.experts.ravel().tolist())
        for expert, kind in guesses:
            share, count = self._shares[kind]
            weight = max(_MEMORY, 1 / (count + 1))
            self._shares[kind] = (share + weight * ((expert in chosen) - share), count + 1)

    def forget(self) -> None:
        """Guesses that were not settled never will be: another pass begins."""
        self._guesses.clear()
