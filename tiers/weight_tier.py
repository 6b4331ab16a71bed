"""Model weights on a drive, read only: which tensors move together, where they lie in a slot and where in a file."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tiers.block import ExpertKey, WeightGroupKey
from tiers.direct_file import DirectFile
from tiers.errors import TierError
from tiers.io_queue import IOQueue, open_queue
from tiers.tier import ALIGNMENT, Extent, Tier, align_down, align_up

DTYPE_NBYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
"""Bytes per element of the types that a tensor may have, in the spelling of safetensors."""

GroupKind = Literal["layer", "expert", "low_expert", "head", "embedding", "rest"]

STORED = "stored"
"""The precision in the key of an expert that is kept as the checkpoint has it."""


WeightKey = WeightGroupKey | ExpertKey


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor, or some rows of one, inside a weight group.

    ``name`` is the checkpoint's, ``dtype`` a key of DTYPE_NBYTES, ``offset`` bytes from the start of the slot.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPE_NBYTES[self.dtype]

    @property
    def row_nbytes(self) -> int:
        """Bytes of one index of the first dimension."""
        return math.prod(self.shape[1:]) * DTYPE_NBYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class WeightGroup:
    """Tensors that move together and fill ``nbytes`` bytes of a slot, a multiple of ALIGNMENT.

    * ``layer``: everything of one decoder layer but its routed experts, key ``layers.<i>``
    * ``expert``: one routed expert, whose key is an ExpertKey. Checkpoints that stack experts have tensors of all of
      them: then a spec is the one row ``first_row``, which is the expert
    * ``low_expert``: the same expert once more, in a lower precision than its ``expert``; not every store has these
    * ``head``: rows of the output projection from vocabulary row ``first_row`` on, key ``head.<j>``; its one tensor
      bears the name under which the checkpoint stores it, which is the input embedding's where the two are tied
    * ``embedding``: rows of the input embedding where it is not tied, key ``embedding.<j>``
    * ``rest``: everything else, key ``rest``
    """

    key: WeightKey
    kind: GroupKind
    tensors: tuple[TensorSpec, ...]
    nbytes: int
    first_row: int = 0


class WeightTier(Tier):
    """Slot ``i`` holds ``groups[i]``. Implements SupportsDirectIO.

    ``extents`` says for each group which ranges of ``files`` make up its slot; the tier closes the files. ``direct``
    tells whether all of them are read with O_DIRECT. A subclass finds groups and extents in one kind of storage.
    """

    name = "nvme"

    def __init__(
        self,
        path: Path,
        groups: Sequence[WeightGroup],
        extents: Sequence[tuple[Extent, ...]],
        files: Sequence[DirectFile],
    ) -> None:
        self.path = path
        self.groups = tuple(groups)
        self.num_slots = len(self.groups)
        self.block_nbytes = max(group.nbytes for group in self.groups)
        self.direct = all(file.direct for file in files)
        self._extents = tuple(extents)
        self._files = {file.fd: file for file in files}
        self._slots = {group.key: slot for slot, group in enumerate(self.groups)}
        self._rows = _index_rows(self.groups)

    def slot_of(self, key: WeightKey) -> int:
        """The slot of a group; KeyError if there is none of that name."""
        return self._slots[key]

    def extents(self, slot: int) -> Sequence[Extent]:
        return self._extents[slot]

    def open_queue(self, depth: int) -> IOQueue:
        return open_queue(depth, direct=self.direct)

    def row_extent(self, tensor_name: str, row: int) -> tuple[Extent, int]:
        """The aligned range that holds one row of a tensor, and the byte offset of the row inside that range.

        This is how a few rows of an embedding are read without the slice around them. KeyError for a tensor that is not
        here, IndexError for a row that it does not have.
        """
        slices = self._rows[tensor_name]
        slot, spec = slices[max(0, bisect_right(slices, row, key=self._first_row) - 1)]
        index = row - self.groups[slot].first_row
        if not 0 <= index < spec.shape[0]:
            raise IndexError(f"{tensor_name} has no row {row}")
        position = spec.offset + index * spec.row_nbytes
        for extent in self._extents[slot]:
            if position < extent.nbytes:
                break
            position -= extent.nbytes
        start = align_down(extent.offset + position)
        inside = extent.offset + position - start
        nbytes = align_up(inside + spec.row_nbytes)
        required = min(nbytes, extent.offset + extent.required - start)
        return Extent(extent.fd, start, nbytes, required), inside

    def read(self, slot: int, buffer: memoryview) -> None:
        """Blocking read of a group; bytes of ``buffer`` beyond the group stay as they are. Raises TransferError."""
        if not self._files:
            raise TierError(f"{self.path}: read after close", tier=self.name)
        position = 0
        for extent in self._extents[slot]:
            part = buffer[position : position + extent.nbytes]
            self._files[extent.fd].read_into(extent.offset, part, min(extent.required, part.nbytes), tier=self.name)
            position += part.nbytes

    def write(self, slot: int, buffer: memoryview) -> None:
        """Weights are never written: raises TierError."""
        raise TierError(f"{self.path}: model weights are read only", tier=self.name)

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files = {}

    def _first_row(self, piece: tuple[int, TensorSpec]) -> int:
        return self.groups[piece[0]].first_row


def _index_rows(groups: Sequence[WeightGroup]) -> dict[str, list[tuple[int, TensorSpec]]]:
    """For every tensor the slots that hold pieces of it, in the order of their first rows."""
    rows: dict[str, list[tuple[int, TensorSpec]]] = {}
    for slot, group in enumerate(groups):
        assert group.nbytes % ALIGNMENT == 0, "O_DIRECT moves whole pages"
        for spec in group.tensors:
            rows.setdefault(spec.name, []).append((slot, spec))
    for pieces in rows.values():
        pieces.sort(key=lambda piece: groups[piece[0]].first_row)
    return rows
