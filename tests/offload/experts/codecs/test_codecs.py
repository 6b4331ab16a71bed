"""Every codec: what it writes is what it reads, and how far that is from what it was given."""

import pytest
import torch

from offload.experts.codecs.affine import AffineCodec
from offload.experts.codecs.base import Codec
from offload.experts.codecs.kernels import DEFAULT, Kernels
from offload.experts.codecs.planes import join_planes, split_planes
from offload.experts.codecs.registry import CODECS, codec_of
from offload.experts.codecs.stored import StoredMatrix
from offload.experts.codecs.tiles import tiles_here
from tiers.errors import ModelError
from tiers.weight_tier import TensorSpec

ERRORS = {"int8": 0.008, "int4": 0.09, "int4-sparse": 0.085, "int3-sparse": 0.17, "int2": 0.39}
"""Largest root mean square error of normally distributed weights, relative to theirs."""

SHAPES = [(64, 576), (576, 32), (128, 256), (48, 96)]


def weights(outputs: int, inputs: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))


def relative(error: torch.Tensor, of: torch.Tensor) -> float:
    return float(error.norm() / of.norm())


def test_all_are_tested() -> None:
    assert set(ERRORS) == set(CODECS)
    with pytest.raises(ModelError, match="experts of precision 'int1' are unknown; this version reads int8"):
        codec_of("int1")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("codec", CODECS.values(), ids=lambda codec: codec.name)
class TestEveryCodec:
    def test_parts_are_as_promised(self, codec: Codec, shape: tuple[int, int]) -> None:
        parts = codec.parts(*shape)
        encoded = codec.encode(weights(*shape))
        for part, tensor in zip(parts, encoded, strict=True):
            spec = TensorSpec(part.name, part.dtype, part.shape, 0)
            assert (tuple(tensor.shape), tensor.nbytes) == (part.shape, spec.nbytes)
            assert tensor.is_contiguous()

    def test_error(self, codec: Codec, shape: tuple[int, int]) -> None:
        weight = weights(*shape)
        decoded = codec.decode(codec.encode(weight))
        assert decoded.shape == weight.shape
        assert 0 < relative(decoded - weight, weight) < ERRORS[codec.name]

    @pytest.mark.parametrize("tokens", [1, 5, 32, 33, 70])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_multiplies_by_what_it_decodes_to(
        self, codec: Codec, shape: tuple[int, int], tokens: int, dtype: torch.dtype
    ) -> None:
        """Whatever the kernel for that many tokens, to the precision of bfloat16."""
        encoded = codec.encode(weights(*shape))
        inputs = weights(tokens, shape[1], seed=1).to(dtype)
        expected = inputs.to(torch.bfloat16).float() @ codec.decode(encoded).t()
        for kernels in (DEFAULT, Kernels(0, 0, 0), Kernels(1, 100, 100)):
            found = codec.matrix(encoded, kernels).multiply(inputs)
            assert found.dtype == dtype
            assert relative(found.float() - expected, expected) < 0.012

    def test_extremes(self, codec: Codec, shape: tuple[int, int]) -> None:
        """All zeros, one constant, and one weight far beyond the others."""
        for weight in (torch.zeros(shape), torch.full(shape, 0.25), weights(*shape).index_fill(1, torch.tensor(3), 40)):
            decoded = codec.decode(codec.encode(weight))
            assert torch.isfinite(decoded).all()
            assert (decoded - weight).norm() <= 0.35 * weight.norm() + 1e-6


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_planes(bits: int) -> None:
    codes = torch.randint(0, 2**bits, (2, 64), dtype=torch.uint8)
    nibbles = codes[0] | (codes[1] << 4)
    planes = split_planes(nibbles, bits)
    assert sum(plane.numel() for plane in planes) == 64 * bits // 4
    assert torch.equal(join_planes(planes, bits), nibbles)


def test_shapes_that_no_kernel_takes() -> None:
    with pytest.raises(ModelError, match=r"int4 experts need outputs in multiples of 16 .*, not \[20, 64\]; take int8"):
        AffineCodec(4).parts(20, 64)
    with pytest.raises(ModelError, match=r"int8 experts need inputs in multiples of 16, not 24"):
        CODECS["int8"].parts(64, 24)


def test_codes_name_the_tiles_that_they_are_in() -> None:
    assert AffineCodec(4).parts(64, 64)[0].name == f"{tiles_here()}_all"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_as_stored(dtype: torch.dtype) -> None:
    weight = weights(96, 64).to(dtype)
    tokens = weights(3, 64, seed=1).to(dtype)
    expected = tokens.float() @ weight.float().t()
    for matrix in (
        StoredMatrix(weight, is_transposed=False),
        StoredMatrix(weight.t().contiguous(), is_transposed=True),
        StoredMatrix(weight, is_transposed=False, kernels=Kernels(bf16=0)),
    ):
        for some in (tokens, tokens[:1]):
            found = matrix.multiply(some)
            assert found.dtype == dtype
            assert relative(found.float() - expected[: len(some)], expected[: len(some)]) < 0.005
