"""Plain torch's products of experts in fewer bits: those of the processor's kernels, whatever the layout of codes."""

import os
import subprocess
import sys

import pytest
import torch

from offload.experts.codecs.base import Codec
from offload.experts.codecs.registry import CODECS
from offload.experts.codecs.tiles import tiles_here
from offload.experts.packed import reference

SHAPES = [(64, 96), (176, 64), (48, 160)]
ROWS = [0] * 5 + [2] + [3] * 9 + [7] * 2
"""Slots of rows: one expert without any, and rows of a slot that does not exist."""


def check(codec: Codec, outputs: int, inputs: int, dtype: torch.dtype) -> None:
    """Against the processor's kernel for one expert after the other."""
    generator = torch.Generator().manual_seed(outputs)
    experts = [codec.encode(torch.randn(outputs, inputs, generator=generator)) for _ in range(4)]
    stack = codec.stack([torch.stack(parts) for parts in zip(*experts, strict=True)], tiles_here())
    assert (stack.num_slots, stack.outputs, stack.inputs) == (4, outputs, inputs)
    tokens, slots = torch.randn(len(ROWS), inputs, generator=generator).to(dtype), torch.tensor(ROWS)
    found = reference.multiply(stack, tokens, slots)
    assert (found.dtype, found.shape) == (dtype, (len(ROWS), outputs))
    for slot in (0, 2, 3):
        expected = codec.matrix(experts[slot]).multiply(tokens[slots == slot]).float()
        # The kernel rounds its product to bfloat16, and sums of those that are kept apart to the type of the tokens.
        assert (found[slots == slot].float() - expected).norm() < 6e-3 * expected.norm()
        widened = reference.widened(stack, slot)
        if stack.apart is not None:
            widened = widened + reference.apart_of(stack, slot)
        torch.testing.assert_close(widened, codec.decode(experts[slot]), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("codec", CODECS.values(), ids=lambda codec: codec.name)
def test_what_the_processors_kernels_compute(codec: Codec, shape: tuple[int, int], dtype: torch.dtype) -> None:
    check(codec, *shape, dtype)


def test_the_tiles_of_a_smaller_processor() -> None:
    """A process that is told to use AVX2 only packs otherwise, and is read as well."""
    if tiles_here() != "tiles64":
        pytest.skip("this processor has no larger tiles than those")
    lines = (
        "import torch",
        "from offload.experts.codecs.registry import CODECS",
        "from offload.experts.codecs.tiles import tiles_here",
        "from tests.offload.experts.packed.test_reference import SHAPES, check",
        "assert tiles_here() == 'tiles32'",
        "[check(codec, *shape, torch.float32) for codec in CODECS.values() for shape in SHAPES]",
    )
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2"}
    subprocess.run([sys.executable, "-c", "\n".join(lines)], env=environment, check=True)
