"""Matrices as the checkpoint has them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from offload.experts.codecs.base import Matrix
from offload.experts.codecs.kernels import DEFAULT, Kernels
from offload.linear import linear


@dataclass(frozen=True, slots=True)
class StoredMatrix(Matrix):
    """``weight`` is [outputs, inputs], or [inputs, outputs] where the family stores it transposed."""

    weight: Tensor
    is_transposed: bool
    kernels: Kernels = DEFAULT

    def multiply(self, tokens: Tensor) -> Tensor:
        if self.is_transposed:
            return torch.matmul(tokens, self.weight)
        return linear(tokens, self.weight, by_vector=self.kernels.bf16 > 0)
