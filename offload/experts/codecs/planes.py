"""Bit planes of nibbles: what is left of codes below four bits when the bits that are zero in all of them go."""

from collections.abc import Sequence

import torch
from torch import Tensor


def split_planes(nibbles: Tensor, bits: int) -> tuple[Tensor, ...]:
    """Bytes of two nibbles, each below ``2**bits``, without the bits that are zero in all of them."""
    if bits == 4:
        return (nibbles,)
    first, second = nibbles.chunk(2)
    low = (first & 0x33) | ((second & 0x33) << 2)
    if bits == 2:
        return (low,)
    quarters = nibbles.chunk(4)
    high = sum(((quarter >> 2) & 0x11) << place for place, quarter in enumerate(quarters))
    assert isinstance(high, Tensor)
    return low, high


def join_planes(planes: Sequence[Tensor], bits: int) -> Tensor:
    """The inverse of ``split_planes``."""
    if bits == 4:
        return planes[0]
    low = planes[0]
    nibbles = torch.cat((low & 0x33, (low >> 2) & 0x33))
    if bits == 3:
        for place, quarter in enumerate(nibbles.chunk(4)):
            quarter.bitwise_or_(((planes[1] >> place) & 0x11) << 2)
    return nibbles
