"""One matrix of experts in fewer bits, in every slot of an arena at once."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class PackedStack:
    """A matrix [outputs, inputs] in each of ``slots``; every tensor is a view of the arena, contiguous in its slot.

    With eight bits ``codes`` is int8 [slots, outputs, inputs] and ``scales`` bfloat16 [slots, outputs]. With fewer,
    ``codes`` is uint8 [slots, bytes], the plane of the low bits of tiles of ``tile`` outputs; ``high`` that of the
    others, with three bits; ``scales`` bfloat16 [slots, inputs / group, outputs, 2], scale and zero. See
    ``AffineMatrix`` for what they mean.
    """

    bits: int
    tile: int
    codes: Tensor
    high: Tensor | None
    scales: Tensor
    apart: tuple[Tensor, Tensor, Tensor] | None = None
    """Rows (ascending) and columns, int32, and values in bfloat16 of weights to be added; [slots, weights] each."""

    @property
    def num_slots(self) -> int:
        return self.codes.shape[0]

    @property
    def outputs(self) -> int:
        return self.scales.shape[1] if self.bits == 8 else self.scales.shape[2]

    @property
    def inputs(self) -> int:
        if self.bits == 8:
            return self.codes.shape[2]
        return self.codes.shape[1] * (2 if self.bits == 4 else 4) // self.outputs

    def part(self, some: slice) -> Self:
        """Only these slots."""
        return self._each(lambda tensor: tensor[some])

    def to(self, device: torch.device) -> Self:
        """A copy on a device."""
        return self._each(lambda tensor: tensor.to(device))

    def _each(self, made: Callable[[Tensor], Tensor]) -> Self:
        high = None if self.high is None else made(self.high)
        apart = None
        if self.apart is not None:
            rows, columns, values = (made(part) for part in self.apart)
            apart = rows, columns, values
        return replace(self, codes=made(self.codes), high=high, scales=made(self.scales), apart=apart)


Multiply = Callable[[PackedStack, Tensor, Tensor], Tensor]
"""Matrices, tokens [rows, inputs] and the slot of each row, ascending -> [rows, outputs] in the type of the tokens.

A row of a slot that does not exist gets anything. Tokens are rounded to bfloat16 first, as torch's kernels for a
processor do, except for the weights kept apart; sums are in float32.
"""
