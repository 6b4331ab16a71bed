"""Experts in fewer bits, in one product for all that are there."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from offload.experts.grouped import over_slots
from offload.experts.layout import ExpertLayout, MatrixLayout
from offload.experts.packed.stack import Multiply, PackedStack
from offload.experts.stack import SlotStack


@dataclass(frozen=True, slots=True)
class PackedSlots(SlotStack):
    """The matrices of one layer's experts of one precision in every slot of an arena, and how to multiply by them."""

    up: PackedStack
    up_bias: Tensor | None
    down: PackedStack
    down_bias: Tensor | None
    products: Multiply

    @classmethod
    def over(cls, arena: Tensor, num_slots: int, layouts: Sequence[ExpertLayout], products: Multiply) -> Self:
        """Views of an arena (uint8) of slots of one size. Experts of one precision always lie in one way."""
        first = layouts[0]

        def stack(matrix: MatrixLayout) -> PackedStack:
            assert matrix.codec is not None, "experts as they are stored are stacked by themselves"
            return matrix.codec.stack([over_slots(arena, num_slots, spec) for spec in matrix.specs], matrix.tiles)

        biases = (
            None if bias is None else over_slots(arena, num_slots, bias) for bias in (first.up_bias, first.down_bias)
        )
        up_bias, down_bias = biases
        (up,) = first.up
        return cls(stack(up), up_bias, stack(first.down), down_bias, products)

    def part(self, first: int, count: int) -> Self:
        some = slice(first, first + count)
        return replace(
            self,
            up=self.up.part(some),
            up_bias=None if self.up_bias is None else self.up_bias[some],
            down=self.down.part(some),
            down_bias=None if self.down_bias is None else self.down_bias[some],
        )

    def fits(self, tokens: Tensor) -> bool:
        return tokens.is_floating_point()

    def index(self, slots: Tensor) -> Tensor:
        return slots

    def up_of(self, tokens: Tensor, index: Tensor) -> Tensor:
        return self.products(self.up, tokens, index)

    def down_of(self, inner: Tensor, index: Tensor) -> Tensor:
        return self.products(self.down, inner, index)
