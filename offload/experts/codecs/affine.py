"""Codes of two to four bits with a scale and a zero for each group of inputs, for torch's four-bit kernel.

The kernel reads nibbles in tiles of rows: a byte holds one row of the lower half of a tile in its low nibble and one of
the upper half in its high nibble. Codes of fewer bits are kept as bit planes of those bytes, which a few operations on
whole bytes put together again; bytes that are read from a drive cost more than they do.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from offload.experts.codecs.base import Codec, Matrix, Part
from offload.experts.codecs.kernels import DEFAULT, Kernels
from offload.experts.codecs.planes import join_planes, split_planes
from offload.experts.codecs.tiles import TILES, tile_rows, tiles_here
from offload.experts.packed.stack import PackedStack
from tiers.errors import ModelError

_GROUPS = (64, 32)
"""Inputs that share a scale, the first that divides their number. The kernel knows 32, 64, 128 and 256."""

_SHRINKS = (1.0, 0.94, 0.88, 0.82)
"""Parts of a group's range that are tried: clipping its extremes can make the error of all others smaller."""

_TOKENS_TO_DECODE = 32


@dataclass(frozen=True, slots=True)
class AffineMatrix(Matrix):
    """``planes`` of codes, and ``scales`` bfloat16 [inputs / group, outputs, 2]: scale and zero.

    A weight is ``(code - 8) * scale + zero``, as the kernel has it, whatever the number of bits. Beyond
    ``most_by_kernel`` tokens a tile is widened once, and not for every token.
    """

    bits: int
    planes: tuple[Tensor, ...]
    scales: Tensor
    most_by_kernel: int

    @property
    def inputs(self) -> int:
        nibbles = self.planes[0].numel() * (2 if self.bits == 4 else 4)
        return nibbles // self.scales.shape[1]

    @property
    def group(self) -> int:
        """Inputs that share a scale."""
        return self.inputs // self.scales.shape[0]

    def multiply(self, tokens: Tensor) -> Tensor:
        outputs, inputs = self.scales.shape[1], self.inputs
        nibbles = join_planes(self.planes, self.bits)
        narrow = tokens.to(torch.bfloat16).contiguous()
        if narrow.shape[0] > self.most_by_kernel and outputs % 64 == 0 and tile_rows() == 64:
            product = self._by_tiles(narrow, nibbles.view(outputs // 64, inputs, 32))
        else:
            kernel = torch.ops.aten._weight_int4pack_mm_for_cpu  # noqa: SLF001 - its only name
            product = kernel(narrow, nibbles.view(outputs, inputs // 2), self.group, self.scales)
        return product.to(tokens.dtype)

    def _by_tiles(self, tokens: Tensor, tiles: Tensor) -> Tensor:
        """Widen the tiles [tiles, inputs, 32] and multiply by each; no transposition is needed."""
        count = tiles.shape[0]
        scales = self.scales.view(-1, count, 64, 2).permute(1, 0, 2, 3).unsqueeze(2)
        # The zero is large beside codes of few bits: what is left of it and the 8 is found before it is rounded.
        lowest = torch.sub(scales[..., 1].float(), scales[..., 0].float(), alpha=8).to(torch.bfloat16)
        codes = torch.cat((tiles & 15, tiles >> 4), -1).to(torch.bfloat16)
        codes.view(count, -1, self.group, 64).mul_(scales[..., 0]).add_(lowest)
        products = torch.bmm(tokens.expand(count, -1, -1), codes)
        return products.transpose(0, 1).reshape(tokens.shape[0], -1)


class AffineCodec(Codec):
    """``bits`` from 2 to 4."""

    def __init__(self, bits: int) -> None:
        assert bits in (2, 3, 4), "the planes are of one and two bits"
        self.bits = bits
        self.name = f"int{bits}"  # type: ignore[misc]  # one class, three names

    def parts(self, outputs: int, inputs: int, tiles: str | None = None) -> tuple[Part, ...]:
        group = next((size for size in _GROUPS if inputs % size == 0), None)
        if outputs % 16 or group is None:
            needs = "outputs in multiples of 16 and inputs in multiples of 32"
            raise ModelError(f"{self.name} experts need {needs}, not [{outputs}, {inputs}]; take int8")
        nbytes = outputs * inputs // 2
        # The tiles are part of the name: codes for another processor would be read as other weights.
        planes = [Part(f"{tiles or tiles_here()}_{name}", "U8", (nbytes * bits // 4,)) for name, bits in self._planes]
        return (*planes, Part("scales", "BF16", (inputs // group, outputs, 2)))

    @property
    def _planes(self) -> list[tuple[str, int]]:
        return {4: [("all", 4)], 3: [("low", 2), ("high", 1)], 2: [("low", 2)]}[self.bits]

    def encode(self, weight: Tensor) -> tuple[Tensor, ...]:
        outputs, inputs = weight.shape
        groups = weight.view(outputs, self.parts(outputs, inputs)[-1].shape[0], -1)
        scale, zero, codes = _fit(groups, 2**self.bits - 1)
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.view(outputs, inputs), 1)  # noqa: SLF001
        # The kernel subtracts 8 from every code.
        scales = torch.stack((scale, zero + 8 * scale), -1).squeeze(2).transpose(0, 1)
        return *split_planes(packed.flatten(), self.bits), scales.to(torch.bfloat16).contiguous()

    def decode(self, parts: Sequence[Tensor]) -> Tensor:
        matrix = AffineMatrix(self.bits, tuple(parts[:-1]), parts[-1], _TOKENS_TO_DECODE)
        # The kernel knows how its codes are laid out; what it makes of one input at a time is the matrix.
        columns = [matrix.multiply(some) for some in torch.eye(matrix.inputs).split(_TOKENS_TO_DECODE)]
        return torch.cat(columns).t().contiguous()

    def matrix(self, parts: Sequence[Tensor], kernels: Kernels = DEFAULT) -> Matrix:
        return AffineMatrix(self.bits, tuple(parts[:-1]), parts[-1], kernels.int4)

    def stack(self, parts: Sequence[Tensor], tiles: str) -> PackedStack:
        return PackedStack(self.bits, TILES[tiles], parts[0], parts[1] if self.bits == 3 else None, parts[-1])


def _fit(groups: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scale, zero and int32 codes from 0 to ``most`` of each group [outputs, groups, inputs of a group].

    The range of a group, or the part of it that leaves the least squared error.
    """
    low, high = groups.amin(2, keepdim=True), groups.amax(2, keepdim=True)
    middle, half = (low + high) / 2, (high - low) / 2
    best: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
    for shrink in _SHRINKS:
        # Codes are found with scale and zero as they are kept, so that their rounding costs nothing.
        scale = (2 * shrink * half / most).clamp_min(1e-20).to(torch.bfloat16).float()
        zero = ((middle - shrink * half) + 8 * scale).to(torch.bfloat16).float() - 8 * scale
        codes = ((groups - zero) / scale).round_().clamp_(0, most)
        error = (codes * scale + zero - groups).square().sum(2, keepdim=True)
        if best is None:
            best = error, scale, zero, codes
        else:
            better = error < best[0]
            found = error, scale, zero, codes
            best = tuple(torch.where(better, new, old) for new, old in zip(found, best, strict=True))  # type: ignore[assignment]
    assert best is not None
    return best[1], best[2], best[3].to(torch.int32)
