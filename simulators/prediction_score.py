"""How good predictions were: what of the needed was named, and what of the named was needed."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from prefetch.base import Prediction
from tiers.block import BlockKey


@dataclass(slots=True)
class PredictionScore:
    """Counts, for every visit that somebody could predict, the latest prediction for it that was made before.

    ``accuracy`` takes as many of the likeliest guesses as were needed: with both the same number it is precision and
    recall at once, and is what papers call accuracy. ``precision`` and ``recall`` take all guesses.
    """

    num_needed: int = 0
    num_named: int = 0
    num_right: int = 0
    """Of all that was named."""
    num_right_at_k: int = 0
    """Of the likeliest, as many as were needed."""
    _guessed: dict[int, list[BlockKey]] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        """See the class; 0 where nothing was needed."""
        return self.num_right_at_k / self.num_needed if self.num_needed else 0.0

    @property
    def precision(self) -> float:
        """Of all that was named, what was needed; 0 where nothing was named."""
        return self.num_right / self.num_named if self.num_named else 0.0

    @property
    def recall(self) -> float:
        """Of all that was needed, what was named; 0 where nothing was needed."""
        return self.num_right / self.num_needed if self.num_needed else 0.0

    def predicted(self, step: int, predictions: Sequence[Prediction[BlockKey]]) -> None:
        """What was named while ``step`` was computed, in place of earlier guesses for the same layers."""
        latest: dict[int, list[tuple[float, BlockKey]]] = {}
        for prediction in predictions:
            for key in prediction.keys:
                layer = getattr(key, "layer", -1)
                if layer != step:
                    latest.setdefault(layer, []).append((-prediction.probability, key))
        for layer, named in latest.items():
            self._guessed[layer] = [key for _, key in sorted(named, key=lambda pair: pair[0])]

    def needed(self, layer: int, keys: Sequence[BlockKey]) -> None:
        """What a layer turned out to need. Layers for which nothing was named count as well, as not guessed."""
        named, needed = self._guessed.pop(layer, []), set(keys)
        self.num_needed += len(needed)
        self.num_named += len(named)
        self.num_right += len(needed.intersection(named))
        self.num_right_at_k += len(needed.intersection(named[: len(needed)]))


def good_predictions(
    needed: AbstractSet[BlockKey], predicted: AbstractSet[BlockKey], arrived: AbstractSet[BlockKey]
) -> float:
    """ProMoE's GoodPred (arXiv 2410.22134), of 0 to 1: accuracy times the share of right guesses that arrived in time.

    ``arrived`` are the blocks that were there when their layer began. A predictor that is right but late is of no more
    use than one that is wrong. 1 where nothing was needed.
    """
    if not needed:
        return 1.0
    right = needed & predicted
    fetch_rate = len(right & arrived) / len(right) if right else 0.0
    return len(right) / len(needed) * fetch_rate
