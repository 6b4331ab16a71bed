"""Products of experts in fewer bits by plain operations of torch, on any device: what the kernel is held against."""

import torch
from torch import Tensor

from offload.experts.codecs.planes import join_planes
from offload.experts.codecs.tiles import codes_of
from offload.experts.packed.stack import PackedStack


def multiply(stack: PackedStack, tokens: Tensor, slots: Tensor) -> Tensor:
    """See ``Multiply``; widens one expert after the other."""
    output = tokens.new_zeros(tokens.shape[0], stack.outputs)
    for slot in slots.unique().tolist():
        if slot < stack.num_slots:
            mine = slots == slot
            some = tokens[mine]
            product = some.to(torch.bfloat16).float() @ widened(stack, slot).t()
            if stack.apart is not None:
                product += some.float() @ apart_of(stack, slot).t()
            output[mine] = product.to(tokens.dtype)
    return output


def widened(stack: PackedStack, slot: int) -> Tensor:
    """The matrix in a slot, float32 [outputs, inputs], without the weights that are kept apart."""
    scales = stack.scales[slot].float()
    if stack.bits == 8:
        return stack.codes[slot].float() * scales.unsqueeze(1)
    planes = [plane[slot] for plane in (stack.codes, stack.high) if plane is not None]
    codes = codes_of(join_planes(planes, stack.bits), stack.outputs, stack.inputs, stack.tile)
    scale, zero = scales.permute(2, 1, 0).unsqueeze(-1).unbind()
    groups = codes.view(stack.outputs, scales.shape[0], -1).float()
    return ((groups - 8) * scale + zero).view(stack.outputs, stack.inputs)


def apart_of(stack: PackedStack, slot: int) -> Tensor:
    """The weights that are kept apart, float32 [outputs, inputs], zero elsewhere."""
    assert stack.apart is not None
    rows, columns, values = (part[slot] for part in stack.apart)
    matrix = torch.zeros(stack.outputs, stack.inputs, device=values.device)
    matrix.index_put_((rows.long(), columns.long()), values.float(), accumulate=True)
    return matrix
