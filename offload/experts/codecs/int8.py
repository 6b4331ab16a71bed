"""Eight bits a weight, one scale for each output."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from offload.experts.codecs.base import Codec, Matrix, Part
from offload.experts.codecs.kernels import DEFAULT, Kernels
from offload.experts.packed.stack import PackedStack
from tiers.errors import ModelError


@dataclass(frozen=True, slots=True)
class Int8Matrix(Matrix):
    """``codes`` int8 [outputs, inputs], ``scales`` bfloat16 [outputs].

    Beyond ``most_by_kernel`` tokens the codes are widened once, and not for every token.
    """

    codes: Tensor
    scales: Tensor
    most_by_kernel: int

    def multiply(self, tokens: Tensor) -> Tensor:
        narrow = tokens.to(torch.bfloat16)
        if narrow.shape[0] <= self.most_by_kernel:
            product = torch._weight_int8pack_mm(narrow.contiguous(), self.codes, self.scales)  # noqa: SLF001 - its only name
        else:
            product = functional.linear(narrow, self.codes.to(torch.bfloat16)) * self.scales
        return product.to(tokens.dtype)


class Int8Codec(Codec):
    """Symmetric: the largest weight of an output is 127."""

    name: ClassVar[str] = "int8"

    def parts(self, outputs: int, inputs: int, tiles: str | None = None) -> tuple[Part, ...]:
        if inputs % 16:
            raise ModelError(f"int8 experts need inputs in multiples of 16, not {inputs}; keep them as stored")
        return Part("codes", "I8", (outputs, inputs)), Part("scales", "BF16", (outputs,))

    def encode(self, weight: Tensor) -> tuple[Tensor, ...]:
        # Codes are found with the scale as it is kept, so that its rounding costs nothing.
        scales = (weight.abs().amax(1) / 127).clamp_min(1e-20).to(torch.bfloat16)
        codes = (weight / scales.float().unsqueeze(1)).round().clamp(-127, 127).to(torch.int8)
        return codes, scales

    def decode(self, parts: Sequence[Tensor]) -> Tensor:
        codes, scales = parts
        return codes.float() * scales.float().unsqueeze(1)

    def matrix(self, parts: Sequence[Tensor], kernels: Kernels = DEFAULT) -> Matrix:
        codes, scales = parts
        return Int8Matrix(codes, scales, kernels.int8)

    def stack(self, parts: Sequence[Tensor], tiles: str) -> PackedStack:
        codes, scales = parts
        return PackedStack(8, 0, codes, None, scales)
