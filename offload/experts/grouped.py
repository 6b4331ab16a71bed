"""Many experts in one product: their slots lie side by side in one arena, and so their matrices are one strided tensor.

A GPU takes longer to be told of a product than to compute it. With ``grouped_mm`` all experts of a layer that are there
are one product up and one down, whichever slots they are in, and nothing is copied together first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from offload.dtypes import torch_dtype
from offload.experts.layout import ExpertLayout
from offload.experts.stack import SlotStack
from tiers.weight_tier import TensorSpec

_ALIGNMENT = 16
"""Bytes, of a matrix that ``grouped_mm`` reads, of its rows and of those of what it is multiplied by."""


@dataclass(frozen=True, slots=True)
class StackedSlots(SlotStack):
    """The matrices of one layer's layout in every slot of an arena: ``up`` and ``down`` [slots, outputs, inputs].

    [slots, inputs, outputs] where the family stores them transposed; biases [slots, outputs]. ``up`` is one matrix or,
    where they are no neighbours in a slot, gate and up.
    """

    up: tuple[Tensor, ...]
    up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None
    is_transposed: bool
    numbers: Tensor
    """0 .. slots - 1."""

    @classmethod
    def over(cls, arena: Tensor, num_slots: int, layouts: Sequence[ExpertLayout]) -> Self | None:
        """Views of an arena (uint8) of slots of one size.

        None where experts of the layer lie in their slots in several ways, or are not stored as plain numbers (packed
        ones always lie in one way), and where ``grouped_mm`` cannot read their rows.
        """
        first = layouts[0]
        specs = [spec for matrix in (*first.up, first.down) for spec in matrix.specs]
        if first.down.codec or len({_geometry(layout) for layout in layouts}) > 1:
            return None
        if not all(_is_aligned(spec, is_transposed=first.down.is_transposed) for spec in specs):
            return None
        *up, down = (over_slots(arena, num_slots, spec) for spec in specs)
        biases = (None if b is None else over_slots(arena, num_slots, b) for b in (first.up_bias, first.down_bias))
        up_bias, down_bias = biases
        numbers = torch.arange(num_slots, device=arena.device)
        return cls(tuple(up), up_bias, down, down_bias, first.down.is_transposed, numbers)

    def part(self, first: int, count: int) -> Self:
        some = slice(first, first + count)
        return replace(
            self,
            up=tuple(matrices[some] for matrices in self.up),
            up_bias=None if self.up_bias is None else self.up_bias[some],
            down=self.down[some],
            down_bias=None if self.down_bias is None else self.down_bias[some],
            numbers=self.numbers[:count],
        )

    def fits(self, tokens: Tensor) -> bool:
        return tokens.dtype is self.down.dtype

    def index(self, slots: Tensor) -> Tensor:
        """Where the rows of each slot end."""
        return torch.searchsorted(slots, self.numbers, right=True, out_int32=True)

    def up_of(self, tokens: Tensor, index: Tensor) -> Tensor:
        parts = [self._product(tokens, matrices, index) for matrices in self.up]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def down_of(self, inner: Tensor, index: Tensor) -> Tensor:
        return self._product(inner, self.down, index)

    def _product(self, tokens: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
        matrices = matrices if self.is_transposed else matrices.transpose(1, 2)
        return functional.grouped_mm(tokens, matrices, offs=ends)


@dataclass(frozen=True, slots=True)
class Choices:
    """Which rows of [tokens * k] chose which expert."""

    rows: Mapping[int, Sequence[int] | NDArray[np.int64]]

    @classmethod
    def of(cls, top_k_index: NDArray[np.int64]) -> Self:
        """From the indices [tokens, k]."""
        chosen = top_k_index.reshape(-1)
        if len(top_k_index) == 1:  # a token does not choose an expert twice
            return cls(
                {expert: (row,) for expert, row in sorted(zip(chosen.tolist(), range(len(chosen)), strict=True))}
            )
        order = np.argsort(chosen, kind="stable")
        experts, first = np.unique(chosen[order], return_index=True)
        return cls(dict(zip(experts.tolist(), np.split(order, first[1:]), strict=True)))

    def wave(self, members: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
        """Of some (slot, expert): rows, in the order of the slots, and the slot of each; [2, rows].

        One array, since every copy to a device takes as long as a small product.
        """
        members = sorted(members)
        rows = [self.rows[expert] for _, expert in members]
        slots = np.repeat([slot for slot, _ in members], [len(some) for some in rows])
        return np.stack([np.concatenate(rows), slots])


def why_not_grouped(weights: Tensor) -> str:
    """Why products are not grouped for such weights, in a few words; "" where they are.

    They are where there is a kernel for it, and where calls cost time.
    """
    if not weights.is_cuda:
        return "a processor is told of a product in no time"
    if weights.dtype is not torch.bfloat16:
        return f"torch groups products of bfloat16 only, and these are of {str(weights.dtype).removeprefix('torch.')}"
    if not hasattr(functional, "grouped_mm"):
        return f"torch {torch.__version__} has no grouped product"
    if torch.cuda.get_device_capability(weights.device) < (8, 0):
        return f"there is no grouped product for a {torch.cuda.get_device_name(weights.device)}"
    return ""


def _geometry(layout: ExpertLayout) -> tuple[tuple[int, tuple[int, ...], str], ...]:
    """Where everything is, whatever it is called."""
    matrices = [spec for matrix in (*layout.up, layout.down) for spec in matrix.specs]
    biases = [bias for bias in (layout.up_bias, layout.down_bias) if bias is not None]
    return tuple((spec.offset, spec.shape, spec.dtype) for spec in (*matrices, *biases))


def _is_aligned(spec: TensorSpec, *, is_transposed: bool) -> bool:
    inputs, row = spec.shape[-2 if is_transposed else -1], spec.shape[-1]
    itemsize = torch_dtype(spec.dtype).itemsize
    return not any(nbytes % _ALIGNMENT for nbytes in (spec.offset, inputs * itemsize, row * itemsize))


def over_slots(arena: Tensor, num_slots: int, spec: TensorSpec) -> Tensor:
    """A tensor of a slot, [slots, ...], in each slot of an arena of slots of one size."""
    dtype = torch_dtype(spec.dtype)
    stride = arena.numel() // num_slots
    slot = arena[spec.offset :][: spec.nbytes].view(dtype).view(spec.shape)
    return slot.as_strided((num_slots, *spec.shape), (stride // dtype.itemsize, *slot.stride()))
