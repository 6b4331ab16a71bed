"""One matrix in fewer bits on a GPU, where experts are not grouped."""

from dataclasses import dataclass

import torch
from torch import Tensor

from offload.experts.codecs.base import Matrix
from offload.experts.packed.stack import Multiply, PackedStack


@dataclass(frozen=True, slots=True)
class PackedMatrix(Matrix):
    """``stack`` has one slot."""

    stack: PackedStack
    products: Multiply

    def multiply(self, tokens: Tensor) -> Tensor:
        return self.products(self.stack, tokens, tokens.new_zeros(tokens.shape[0], dtype=torch.int64))
