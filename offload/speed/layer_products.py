"""The products of a model's layers without the model: what its processor does between two commands to a drive."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

_MOST_NBYTES = 256 * 2**20


class LayerProducts:
    """Calling it multiplies one token by ``matrices``, of so many bytes each, in other memory than those of last time.

    As many layers are kept as hold 256 MiB at least: more than caches do.
    """

    def __init__(self, matrices: Sequence[int], dtype: torch.dtype) -> None:
        kept = max(1, -(-_MOST_NBYTES // max(1, sum(matrices)))) if matrices else 1
        self.layers = [[_product(nbytes, dtype) for nbytes in matrices] for _ in range(kept)]
        """Of each its tokens [1, inputs] and matrices [outputs, inputs]."""
        self._turns = itertools.cycle(self.layers)

    def __call__(self) -> None:
        """One layer."""
        with torch.inference_mode():
            for token, matrix in next(self._turns):
                functional.linear(token, matrix)


def _product(nbytes: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """About as wide as it is high."""
    inputs = max(1, math.isqrt(nbytes // dtype.itemsize))
    matrix = torch.full((nbytes // dtype.itemsize // inputs, inputs), 0.01, dtype=dtype)
    return torch.full((1, inputs), 0.01, dtype=dtype), matrix
