"""The products of experts in fewer bits on a device, and whether they are right there."""

from functools import cache

import torch
from torch import Tensor

from offload.closeness import relative_error
from offload.dtypes import torch_dtype
from offload.experts.codecs.base import Codec, Part
from offload.experts.codecs.registry import codec_of
from offload.experts.codecs.tiles import TILES, tiles_here
from offload.experts.packed import reference
from offload.experts.packed.stack import Multiply, PackedStack
from tiers.proven import Proven

_OUTPUTS, _INPUTS, _SLOTS = 176, 192, 3
"""Two whole tiles and a shorter one at the end, whatever the tile."""
_ROWS = (5, 530)
"""Of a step and of a prompt, for which the kernel cuts its work differently."""
_CLOSE = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 1e-2}
"""Largest root mean square error, relative to the result: a few roundings of its type."""


def products_on(device: torch.device) -> Multiply | None:
    """The kernel for all experts of a visit at once; None on a processor, which has torch's own for one expert."""
    if device.type != "cuda":
        return None
    from offload.experts.packed.kernel import multiply

    return multiply


def tiles_on(device: torch.device) -> tuple[str, ...]:
    """The layouts of codes of four bits and fewer that can be read on a device."""
    return tuple(TILES) if device.type == "cuda" else (tiles_here(),)


@cache
def flaw(device: torch.device, precision: str, tiles: str, dtype: torch.dtype) -> str | None:
    """Why experts of ``precision`` cannot be computed on ``device``, in a few words; None where they can.

    The kernel has to give what plain torch on the processor gives, for numbers drawn at random.
    """
    try:
        kernel = products_on(device)
        assert kernel is not None, "a processor has kernels of its own"
        errors = [_error(kernel, codec_of(precision), tiles, dtype, device, rows) for rows in _ROWS]
    except Exception as error:  # noqa: BLE001 - whatever it is, Triton or its compiler does not work here
        return Proven.failed(error).flaw
    worst = max(errors)
    return None if worst < _CLOSE[dtype] else f"its kernel computes something else here (relative error {worst:.1g})"


def random_stack(
    codec: Codec, outputs: int, inputs: int, tiles: str, slots: int, generator: torch.Generator
) -> PackedStack:
    """Matrices of random codes, scales and weights kept apart: whatever the bytes, they stand for something."""
    parts = codec.parts(outputs, inputs, tiles)
    return codec.stack([_random(part, slots, outputs, inputs, generator) for part in parts], tiles)


def _random(part: Part, slots: int, outputs: int, inputs: int, generator: torch.Generator) -> Tensor:
    shape, dtype = (slots, *part.shape), torch_dtype(part.dtype)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    most = {"rows": outputs, "columns": inputs}.get(part.name, 2 ** (8 * dtype.itemsize))
    least = -127 if dtype is torch.int8 else 0
    numbers = torch.randint(least, min(most, 128 if dtype is torch.int8 else most), shape, generator=generator)
    return (numbers.sort(-1).values if part.name == "rows" else numbers).to(dtype)


def _error(
    kernel: Multiply, codec: Codec, tiles: str, dtype: torch.dtype, device: torch.device, num_rows: int
) -> float:
    generator = torch.Generator().manual_seed(num_rows)
    stack = random_stack(codec, _OUTPUTS, _INPUTS, tiles, _SLOTS, generator)
    tokens = torch.randn(num_rows, _INPUTS, generator=generator).to(dtype)
    slots = torch.randint(0, _SLOTS, (num_rows,), generator=generator).sort().values
    expected = reference.multiply(stack, tokens, slots).float()
    found = kernel(stack.to(device), tokens.to(device), slots.to(device)).cpu().float()
    return relative_error(found, expected)
