"""The seams: a matrix that can be multiplied by, and a codec that makes one of fewer bits."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from offload.experts.codecs.kernels import DEFAULT, Kernels
from offload.experts.packed.stack import PackedStack


class Matrix(ABC):
    """A matrix [outputs, inputs] in some form, in memory that somebody else owns."""

    @abstractmethod
    def multiply(self, tokens: Tensor) -> Tensor:
        """[tokens, inputs] -> [tokens, outputs], in the type of ``tokens``."""


@dataclass(frozen=True, slots=True)
class Part:
    """One of the tensors that make up an encoded matrix; ``dtype`` is a key of DTYPE_NBYTES."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Codec(ABC):
    """Makes matrices smaller at a loss. What it writes is what its kernel reads: nothing is repacked after a fetch."""

    name: ClassVar[str]
    """The precision in the key of an expert."""

    @abstractmethod
    def parts(self, outputs: int, inputs: int, tiles: str | None = None) -> tuple[Part, ...]:
        """What a matrix of that shape becomes, with codes in ``tiles`` if not in those of this processor.

        Raises ModelError for a shape that the kernel cannot take.
        """

    @abstractmethod
    def encode(self, weight: Tensor) -> tuple[Tensor, ...]:
        """The parts, in their order, of ``weight`` [outputs, inputs] in float32."""

    @abstractmethod
    def decode(self, parts: Sequence[Tensor]) -> Tensor:
        """The float32 matrix [outputs, inputs] that the parts stand for."""

    @abstractmethod
    def matrix(self, parts: Sequence[Tensor], kernels: Kernels = DEFAULT) -> Matrix:
        """The matrix to multiply by, by ``kernels``; looks into ``parts`` and copies nothing."""

    @abstractmethod
    def stack(self, parts: Sequence[Tensor], tiles: str) -> PackedStack:
        """The matrices whose ``parts``, one more dimension before their own, lie in several slots."""
