"""The whole path of a token through the experts, foreseen from token ids before the first layer runs."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prefetch.path_file import PathFile
from prefetch.path_network import Matrix, sigmoid, softmax
from tiers.errors import ModelError


class RoutingPath:
    """A trained predictor at work. Keeps the context of the sequences that are being continued.

    It is either after ExpertFlow's routing path predictor (arXiv 2410.17954) or after Read-ME's pre-gate (arXiv
    2410.19123); ``offload.predictor_training.network`` says what was taken from them and what was not.
    """

    def __init__(self, file: PathFile) -> None:
        """Raises ModelError for a file whose arrays do not fit together."""
        self.file = file
        self._network = file.network()
        unknown = len(file.ids)
        self._row_of = np.full(int(file.ids.max(initial=-1)) + 2, unknown, np.int64)
        self._row_of[file.ids] = np.arange(unknown)
        self._context = self._network.begin()
        self._expected: tuple[int, int] | None = None

    @classmethod
    def load(cls, path: Path, model: str | None = None) -> "RoutingPath":
        """Read ``path``. Raises ModelError, also for one that was trained for another model than ``model``."""
        file = PathFile.load(path)
        if model is not None and file.model != model:
            raise ModelError(f"{path}: was trained for another model; record a trace of this one and train again")
        try:
            return cls(file)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from None

    def begin(self, tokens: NDArray[np.int64], position: int) -> Matrix:
        """How likely each token is to visit each expert: [sequences * new, L, E], sequence by sequence.

        ``tokens`` is [sequences, new] and stands at ``position``. At 0, and wherever the tokens do not continue those
        of the last call, the context is empty: what came before is unknown then, which makes the guess a worse one.
        """
        if position == 0 or (len(tokens), position) != self._expected:
            self._context = self._network.begin()
        self._expected = (len(tokens), position + tokens.shape[1])
        rows = self._row_of[tokens.clip(-1, len(self._row_of) - 1)]  # the last row, which -1 is too, is unknown
        outputs = self._network.run(rows, self._context)
        return self._probabilities(outputs.reshape(-1, len(self.file.layers), self.file.num_experts))

    def _probabilities(self, logits: Matrix) -> Matrix:
        if self.file.kind == "routing-path":
            return sigmoid(logits)
        # A pre-gate puts out shares of the gate's weight; an expert with an even share of it, 1 / k, is surely visited.
        return np.minimum(1, self.file.top_k * softmax(logits))
