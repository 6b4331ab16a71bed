"""Matrices as the checkpoint has them."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from offload.experts.codecs.base import Matrix


@dataclass(frozen=True, slots=True)
class StoredMatrix(Matrix):
    """``weight`` is [outputs, inputs], or [inputs, outputs] where the family stores it transposed."""

    weight: Tensor
    is_transposed: bool

    def multiply(self, tokens: Tensor) -> Tensor:
        if self.is_transposed:
            return torch.matmul(tokens, self.weight)
        # One token in bfloat16: torch's matrix-vector kernel reads memory half as fast again as oneDNN's product.
        if tokens.shape[0] == 1 and tokens.dtype is torch.bfloat16:
            return self.weight.mv(tokens[0]).unsqueeze(0)
        return functional.linear(tokens, self.weight)
