"""Products of experts in fewer bits on a GPU: codes become weights in registers, for all experts of a visit at once.

Imported where it is used only: Triton comes with torch on some machines and not on others. Codes are small whole
numbers, which bfloat16 holds exactly, so tensor cores multiply by them and scales are applied to sums: nothing is
rounded that the kernels of a processor do not round.
"""

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

from offload.experts.packed.stack import PackedStack

_FEW_ROWS = 512
"""Up to here the experts of a block of rows are told apart by programs, beyond by a loop in each of them."""
_TILE_OF_INT8 = 64


def multiply(stack: PackedStack, tokens: Tensor, slots: Tensor) -> Tensor:
    """See ``Multiply``. One launch, two where ``tokens`` are not bfloat16."""
    num_rows, outputs, inputs = tokens.shape[0], stack.outputs, stack.inputs
    output = tokens.new_empty(num_rows, outputs)
    tokens = tokens.contiguous()
    codes, scales = stack.codes, stack.scales
    high = codes if stack.high is None else stack.high
    rows, columns, values = (codes, codes, codes) if stack.apart is None else stack.apart
    tile = stack.tile or _TILE_OF_INT8
    block = 16 if num_rows <= _FEW_ROWS else 64
    heads = min(block, num_rows) if num_rows <= _FEW_ROWS else 1
    # A processor comes here to interpret the kernel only, and knows no product of bfloat16.
    dot = tl.bfloat16 if tokens.is_cuda else tl.float32
    grid = (triton.cdiv(num_rows, block), heads, triton.cdiv(outputs, tile))
    with torch.cuda.device(tokens.device) if tokens.is_cuda else nullcontext():
        _multiply[grid](
            tokens, tokens.to(torch.bfloat16), slots, output,
            codes, high, scales, rows, columns, values,
            codes.stride(0), high.stride(0), scales.stride(0), rows.stride(0), values.stride(0),
            num_rows, stack.num_slots, outputs, inputs, rows.shape[1],
            BITS=stack.bits, TILE=tile, BLOCK=block, DOT=dot,
            STEP=64 if stack.bits == 8 else inputs // scales.shape[1],
            HAS_APART=stack.apart is not None,
            APART=dot if tokens.dtype is torch.bfloat16 else tl.float32,
        )  # fmt: skip
    return output


@triton.jit(do_not_specialize=["num_rows", "num_slots"])  # or each number of rows may be compiled for by itself
def _multiply(
    tokens, narrow, slots, output,
    codes, high, scales, apart_rows, apart_columns, apart_values,
    codes_stride, high_stride, scales_stride, apart_stride, values_stride,
    num_rows, num_slots, outputs, inputs, num_apart,
    BITS: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr, DOT: tl.constexpr, STEP: tl.constexpr,
    HAS_APART: tl.constexpr, APART: tl.constexpr,
):  # fmt: skip
    """TILE outputs (axis 2) of BLOCK rows (axis 0), for those experts among these whose first row falls to axis 1."""
    first = tl.program_id(0) * BLOCK
    rows = tl.arange(0, BLOCK)
    slot_of_row = tl.load(slots + first + rows, mask=first + rows < num_rows, other=num_slots)
    # A long prompt has more numbers in its rows than 32 bits can count.
    tokens += first.to(tl.int64) * inputs
    narrow += first.to(tl.int64) * inputs
    output += first.to(tl.int64) * outputs
    start = tl.program_id(2) * TILE
    size = tl.minimum(TILE, outputs - start)
    lanes = tl.arange(0, TILE // 2)
    # The nibbles of a byte belong to these two outputs: in a whole tile half a tile apart, else side by side.
    low = start + lanes * tl.where(size == TILE, 1, 2)
    above = low + tl.where(size == TILE, TILE // 2, 1)
    for head in range(tl.program_id(1), BLOCK, tl.num_programs(1)):
        slot = tl.load(slots + first + head, mask=first + head < num_rows, other=num_slots).to(tl.int64)
        before = tl.load(slots + first + head - 1, mask=(head > 0) & (first + head < num_rows), other=-1)
        if (slot < num_slots) & (slot != before):
            mine = slot_of_row == slot
            if BITS == 8:
                sums_low, sums_above = _of_bytes(
                    narrow, codes + slot * codes_stride, scales + slot * scales_stride,
                    rows, mine, low, above, outputs, inputs, STEP, DOT,
                )  # fmt: skip
            else:
                sums_low, sums_above = _of_nibbles(
                    narrow, codes + slot * codes_stride, high + slot * high_stride, scales + slot * scales_stride,
                    rows, mine, low, above, lanes, size, outputs, inputs, BITS, TILE, STEP, DOT,
                )  # fmt: skip
            if HAS_APART:
                own = slot * apart_stride
                place = _lower_bound(apart_rows + own, num_apart, start)
                end = _lower_bound(apart_rows + own, num_apart, start + size)
                while place < end:
                    some = place + tl.arange(0, 32)
                    inside = some < end
                    output_of = tl.load(apart_rows + own + some, mask=inside, other=-1)[:, None]
                    column = tl.load(apart_columns + own + some, mask=inside, other=0)
                    value = tl.load(apart_values + slot * values_stride + some, mask=inside, other=0.0)
                    value = value.to(APART)[:, None]
                    is_read = mine[:, None] & inside[None, :]
                    given = tl.load(tokens + rows[:, None] * inputs + column[None, :], mask=is_read, other=0.0)
                    given = given.to(APART)
                    # A product with a matrix that is zero elsewhere: the order of sums is always the same.
                    at_low = tl.where(output_of == low[None, :], value, 0.0).to(APART)
                    at_above = tl.where(output_of == above[None, :], value, 0.0).to(APART)
                    sums_low += tl.dot(given, at_low, input_precision="ieee")
                    sums_above += tl.dot(given, at_above, input_precision="ieee")
                    place += 32
            target = output + rows[:, None] * outputs
            is_low, is_above = low[None, :] < outputs, above[None, :] < outputs
            tl.store(target + low[None, :], sums_low.to(output.dtype.element_ty), mask=mine[:, None] & is_low)
            tl.store(target + above[None, :], sums_above.to(output.dtype.element_ty), mask=mine[:, None] & is_above)


@triton.jit
def _of_bytes(
    narrow, codes, scales, rows, mine, low, above, outputs, inputs,
    STEP: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Sums [rows, outputs] for ``low`` and for ``above``, with a scale for each output."""
    sums_low = tl.zeros((rows.shape[0], low.shape[0]), tl.float32)
    sums_above = tl.zeros((rows.shape[0], low.shape[0]), tl.float32)
    is_low, is_above = low < outputs, above < outputs
    for first in range(0, inputs, STEP):
        column = first + tl.arange(0, STEP)
        inside = (column < inputs)[None, :]
        given = tl.load(narrow + rows[:, None] * inputs + column[None, :], mask=mine[:, None] & inside, other=0.0)
        given = given.to(DOT)
        weights = tl.load(codes + low[:, None] * inputs + column[None, :], mask=is_low[:, None] & inside, other=0)
        sums_low = tl.dot(given, tl.trans(weights.to(DOT)), sums_low, input_precision="ieee")
        weights = tl.load(codes + above[:, None] * inputs + column[None, :], mask=is_above[:, None] & inside, other=0)
        sums_above = tl.dot(given, tl.trans(weights.to(DOT)), sums_above, input_precision="ieee")
    scale_low = tl.load(scales + low, mask=is_low, other=0.0).to(tl.float32)
    scale_above = tl.load(scales + above, mask=is_above, other=0.0).to(tl.float32)
    return sums_low * scale_low[None, :], sums_above * scale_above[None, :]


@triton.jit
def _of_nibbles(
    narrow, codes, planes, scales, rows, mine, low, above, lanes, size, outputs, inputs,
    BITS: tl.constexpr, TILE: tl.constexpr, GROUP: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """As ``_of_bytes``, with a scale and a zero for each output and GROUP of inputs."""
    sums_low = tl.zeros((rows.shape[0], low.shape[0]), tl.float32)
    sums_above = tl.zeros((rows.shape[0], low.shape[0]), tl.float32)
    width = tl.multiple_of(size // 2, 8)  # there are outputs in multiples of 16
    is_there = lanes < width
    num_bytes = outputs * inputs // 2
    begin = tl.program_id(2) * (TILE // 2) * inputs
    # Scale and zero are read as one word, whose halves are the upper halves of two float32.
    pairs = scales.to(tl.pointer_type(tl.int32))
    for group in range(inputs // GROUP):
        column = group * GROUP + tl.arange(0, GROUP)
        given = tl.load(narrow + rows[:, None] * inputs + column[None, :], mask=mine[:, None], other=0.0)
        total = tl.sum(given.to(tl.float32), 1)[:, None]
        given = given.to(DOT)
        place = begin + column[:, None] * width + lanes[None, :]
        nibbles = _nibbles(codes, planes, place, is_there[None, :], num_bytes, BITS)
        pair = tl.load(pairs + group * outputs + low, mask=is_there, other=0)[None, :]
        product = tl.dot(given, ((nibbles & 15) - 8).to(DOT), input_precision="ieee")
        sums_low += product * _float_of(pair << 16) + total * _float_of(pair & -65536)
        pair = tl.load(pairs + group * outputs + above, mask=is_there, other=0)[None, :]
        product = tl.dot(given, ((nibbles >> 4) - 8).to(DOT), input_precision="ieee")
        sums_above += product * _float_of(pair << 16) + total * _float_of(pair & -65536)
    return sums_low, sums_above


@triton.jit
def _float_of(word):
    return word.to(tl.float32, bitcast=True)


@triton.jit
def _nibbles(codes, high, place, is_there, num_bytes, BITS: tl.constexpr):
    """The bytes of two codes at ``place``, put together from their planes, int32. See ``join_planes``."""
    if BITS == 4:
        found = tl.load(codes + place, mask=is_there, other=0).to(tl.int32)
    else:
        half = (place >= num_bytes // 2).to(tl.int32)
        found = tl.load(codes + _eights(place - half * (num_bytes // 2)), mask=is_there, other=0).to(tl.int32)
        found = (found >> (2 * half)) & 0x33
        if BITS == 3:
            fourth = num_bytes // 4
            quarter = 2 * half + (place - half * (num_bytes // 2) >= fourth).to(tl.int32)
            more = tl.load(high + _eights(place - quarter * fourth), mask=is_there, other=0).to(tl.int32)
            found = found | (((more >> quarter) & 0x11) << 2)
    return found


@triton.jit
def _eights(place):
    """Tells the compiler that places follow each other by eight: a plane is a multiple of 64 bytes."""
    return tl.max_contiguous(tl.multiple_of(place, (1, 8)), (1, 8))


@triton.jit
def _lower_bound(sorted_, count, value):
    """How many of ``count`` ascending numbers are below ``value``."""
    low = 0
    high = count
    while low < high:
        middle = (low + high) // 2
        if tl.load(sorted_ + middle) < value:
            low = middle + 1
        else:
            high = middle
    return low
