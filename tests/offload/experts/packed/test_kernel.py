"""The kernel for experts in fewer bits, interpreted on the processor: it computes what plain torch does."""

import torch

from offload.experts.codecs.registry import CODECS
from offload.experts.packed import reference
from offload.experts.packed.products import random_stack
from tests.interpreted import needs_interpreter, run_interpreted

NUM_SLOTS = 5
VISITS = {
    "one token": [0, 2, 3],
    "one expert": [4] * 3,
    "more rows than a block": [0] * 3 + [1] * 20 + [4] * 17 + [9] * 2,
}
"""Slots of rows; 9 is none."""


def check(codec_name: str, tiles: str, shape: tuple[int, int], dtype: torch.dtype, rows: list[int]) -> None:
    from offload.experts.packed.kernel import multiply

    generator = torch.Generator().manual_seed(len(rows))
    stack = random_stack(CODECS[codec_name], *shape, tiles, NUM_SLOTS, generator)
    tokens, slots = torch.randn(len(rows), shape[1], generator=generator).to(dtype), torch.tensor(rows)
    found, expected = (product(stack, tokens, slots)[slots < NUM_SLOTS] for product in (multiply, reference.multiply))
    assert found.dtype == dtype
    # The interpreter cuts what it makes bfloat16 instead of rounding it.
    close = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 2**-7}[dtype]
    error = (found.float() - expected.float()).norm() / expected.float().norm()
    assert error < close, (codec_name, tiles, shape, dtype, len(rows), float(error))


def check_all() -> None:
    """Every codec with every layout, and every shape, type and visit with one of them."""
    for name in CODECS:
        for tiles in ("tiles64", "tiles32"):
            check(name, tiles, (112, 64), torch.float32, VISITS["one token"])
    for name, shape in (("int8", (40, 48)), ("int4", (48, 96)), ("int4-sparse", (80, 32)), ("int3-sparse", (16, 64))):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            check(name, "tiles64", shape, dtype, VISITS["one expert"])
    for name in ("int8", "int4-sparse", "int2"):
        check(name, "tiles32", (48, 64), torch.float32, VISITS["more rows than a block"])
    check("int4", "tiles64", (16, 64), torch.float32, [0] * 300 + [1] * 30 + [3] * 200)


@needs_interpreter
def test_what_plain_torch_computes() -> None:
    run_interpreted(__name__)
