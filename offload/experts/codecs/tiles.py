"""How torch's four-bit kernel lays out its codes, which depends on the instructions of the processor that packed them.

Outputs are cut into tiles; a byte of a tile holds the codes of two outputs for one input. In a whole tile they lie half
a tile apart; in the shorter one at the end, and everywhere on a processor without vector instructions, side by side.
"""

from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

TILES: Final = MappingProxyType({"tiles64": 64, "tiles32": 32})
"""Outputs of a tile, for the layouts that a GPU reads as well."""


def tiles_here() -> str:
    """The layout that this processor's kernel reads and writes; part of the names in a packed store.

    Codes in another one would be read as other weights.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    return {"AVX512": "tiles64", "AVX2": "tiles32"}.get(capability, f"pairs_{capability.lower()}")


def tile_rows() -> int:
    """Outputs of a tile of this processor's kernel."""
    return TILES.get(tiles_here(), 32)


def codes_of(nibbles: Tensor, outputs: int, inputs: int, tile: int) -> Tensor:
    """Bytes [outputs * inputs / 2] in tiles of ``tile`` outputs -> their codes [outputs, inputs], uint8."""
    whole = outputs // tile * tile
    tiles = nibbles[: whole * inputs // 2].view(-1, inputs, tile // 2)
    halves = torch.cat((tiles & 15, tiles >> 4), -1).transpose(1, 2).reshape(whole, inputs)
    rest = nibbles[whole * inputs // 2 :].view(inputs, -1)
    pairs = torch.stack((rest & 15, rest >> 4), -1).view(inputs, outputs - whole).t()
    return torch.cat((halves, pairs))
