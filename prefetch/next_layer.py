"""The prefetch that cannot be wrong: decoding goes through the layers in the same order for every token."""

from collections.abc import Callable, Sequence

from prefetch.base import K, Prediction, Predictor
from tiers.errors import InvalidOptionError


class NextLayerPredictor(Predictor[K]):
    """Predicts with certainty all keys of the next ``lookahead`` steps, soonest first.

    ``keys_of_step`` gives the keys of one of the ``num_steps`` steps of the cycle and is asked anew each time, since
    they may change while a sequence grows. After the last step comes the first, of the next token. A lookahead of 0
    predicts nothing; one beyond a whole cycle predicts no more than one cycle does.
    """

    def __init__(self, keys_of_step: Callable[[int], Sequence[K]], num_steps: int, lookahead: int) -> None:
        if num_steps < 1:
            raise InvalidOptionError(f"a schedule of {num_steps} steps has nothing to predict; it needs at least 1")
        if lookahead < 0:
            raise InvalidOptionError(f"a prefetch lookahead of {lookahead} steps looks back; it must be at least 0")
        self._keys_of_step = keys_of_step
        self._num_steps = num_steps
        self._lookahead = min(lookahead, num_steps)

    def predict(self, step: int) -> list[Prediction[K]]:
        return [
            Prediction(self._keys_of_step((step + ahead) % self._num_steps), 1.0, ahead)
            for ahead in range(1, self._lookahead + 1)
        ]
