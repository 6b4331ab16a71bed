"""Few bits for almost all weights, and the largest ones apart (dense and sparse, SqueezeLLM, arXiv 2306.07629)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from offload.experts.codecs.base import Codec, Matrix, Part
from offload.experts.codecs.kernels import DEFAULT, Kernels
from offload.experts.packed.stack import PackedStack

_SHARE = 0.005
"""Of the weights that are kept apart; the paper's is 0.45 %."""


@dataclass(frozen=True, slots=True)
class SparseMatrix(Matrix):
    """``dense`` and, in order of rows, ``values`` that belong at ``rows`` and ``columns`` (int32 each)."""

    dense: Matrix
    rows: Tensor
    columns: Tensor
    values: Tensor

    def multiply(self, tokens: Tensor) -> Tensor:
        product = self.dense.multiply(tokens)
        apart = tokens.index_select(1, self.columns) * self.values.to(tokens.dtype)
        return product.index_add_(1, self.rows, apart)


class SparseCodec(Codec):
    """What ``dense`` does badly, the weights that are farthest from zero, is kept in bfloat16 beside it.

    They are chosen by size alone; the paper's sensitivity needs gradients, its lookup tables a kernel that torch lacks.
    """

    def __init__(self, dense: Codec) -> None:
        self._dense = dense
        self.name = f"{dense.name}-sparse"  # type: ignore[misc]  # one class, several names

    def parts(self, outputs: int, inputs: int, tiles: str | None = None) -> tuple[Part, ...]:
        count = _count(outputs * inputs)
        own = (Part("rows", "I32", (count,)), Part("columns", "I32", (count,)), Part("values", "BF16", (count,)))
        return *self._dense.parts(outputs, inputs, tiles), *own

    def encode(self, weight: Tensor) -> tuple[Tensor, ...]:
        flat = weight.flatten()
        places = flat.abs().topk(_count(flat.numel()), sorted=False).indices.sort().values
        rest = flat.index_fill(0, places, 0.0).view_as(weight)
        rows, columns = places // weight.shape[1], places % weight.shape[1]
        values = flat[places].to(torch.bfloat16)
        return *self._dense.encode(rest), rows.to(torch.int32), columns.to(torch.int32), values

    def decode(self, parts: Sequence[Tensor]) -> Tensor:
        *dense, rows, columns, values = parts
        weight = self._dense.decode(dense)
        weight[rows.long(), columns.long()] += values.float()
        return weight

    def matrix(self, parts: Sequence[Tensor], kernels: Kernels = DEFAULT) -> Matrix:
        *dense, rows, columns, values = parts
        return SparseMatrix(self._dense.matrix(dense, kernels), rows, columns, values)

    def stack(self, parts: Sequence[Tensor], tiles: str) -> PackedStack:
        *dense, rows, columns, values = parts
        return replace(self._dense.stack(dense, tiles), apart=(rows, columns, values))


def _count(weights: int) -> int:
    """A multiple of 8, so that what follows is aligned."""
    return max(8, round(weights * _SHARE / 8) * 8)
