"""Where the tokens of a step lie in the arena: worked out on the device, from numbers that the host fills in."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offload.attention.paged import piece_tokens
from offload.kv.table import BlockTable

_LEAST_ROOM = 1024
_GROWTH = 4
"""Of a room to the one before: few graphs are captured on the way, and pieces without tokens cost next to nothing."""


def room_for(num_tokens: int) -> int:
    """Tokens of a row for which a graph is captured that has to do for so many."""
    room = _LEAST_ROOM
    while room < num_tokens:
        room *= _GROWTH
    return room


def num_pieces(room: int) -> int:
    """In how many pieces ``Places`` cuts a row."""
    return -(-room // piece_tokens(room))


def place_table(tables: Sequence[Sequence[BlockTable]], begins: Sequence[int], end: int) -> NDArray[np.int64] | None:
    """The numbers of a step, [layers + 2, rows].

    None where the tokens of a row are no neighbours in the arena, or a layer has not all rows.

    For each layer the token of the arena at which position 0 of each row lies, then the first position that a row
    attends to, then the one after the last.
    """
    origins = [[table.origin for table in rows] for rows in tables]
    if any(len(rows) != len(begins) or None in rows for rows in origins):
        return None
    return np.array([*origins, begins, [end] * len(begins)], np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """``newest`` [layers, rows]: the token of the arena that each row writes and attends to last.

    ``pieces`` [layers, rows, pieces, 2]: all that it attends to, the first token of each piece and the one after the
    last; pieces behind the end have none, and may end before they begin.
    """

    newest: Tensor
    pieces: Tensor

    @classmethod
    def of(cls, table: Tensor, room: int) -> "Places":
        """Out of a ``place_table`` on the device, for up to ``room`` tokens in each row; nobody waits."""
        origins, begin, end = table[:-2], table[-2], table[-1]
        size = piece_tokens(room)
        offsets = torch.arange(0, room, size, device=table.device)
        stops = origins + end
        firsts = (origins + begin).unsqueeze(-1) + offsets
        lasts = torch.minimum(firsts + size, stops.unsqueeze(-1))
        return cls(stops - 1, torch.stack([firsts, lasts], -1))
