"""The experts of a layer in every slot that may hold them: what they make of tokens that chose different ones."""

from abc import ABC, abstractmethod
from typing import Any, Self

from torch import Tensor

from offload.experts.layout import activate


class SlotStack(ABC):
    """Matrices and biases ([slots, outputs], or None) of all slots of an arena, which lie in one way in each."""

    __slots__ = ()
    up_bias: Tensor | None
    down_bias: Tensor | None

    def apply(self, module: Any, tokens: Tensor, slots: Tensor) -> Tensor:
        """What experts make of ``tokens`` [rows, hidden]; ``slots`` [rows], ascending, is the slot of each.

        Rows of slots that do not exist come last and mean nothing.
        """
        index = self.index(slots)
        inner = _biased(self.up_of(tokens, index), self.up_bias, slots)
        output = _biased(self.down_of(activate(module, inner), index), self.down_bias, slots)
        return module.post_expert_norm(output) if getattr(module, "has_post_expert_norm", False) else output

    @abstractmethod
    def part(self, first: int, count: int) -> Self:
        """Only the slots from ``first`` on."""

    @abstractmethod
    def fits(self, tokens: Tensor) -> bool:
        """Whether tokens of that type can be multiplied by."""

    @abstractmethod
    def index(self, slots: Tensor) -> Tensor:
        """What the products need to know of ``slots``."""

    @abstractmethod
    def up_of(self, tokens: Tensor, index: Tensor) -> Tensor:
        """The product with the matrix that goes up, [rows, outputs]."""

    @abstractmethod
    def down_of(self, inner: Tensor, index: Tensor) -> Tensor:
        """The product with the matrix that comes down, [rows, hidden]."""


def _biased(product: Tensor, biases: Tensor | None, slots: Tensor) -> Tensor:
    if biases is None:
        return product
    return product + biases.index_select(0, slots.clamp(max=biases.shape[0] - 1))
