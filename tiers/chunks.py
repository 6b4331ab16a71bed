"""What a transfer between a file and memory looks like to the drive. Pure: from moves to I/O requests, no I/O here."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Generic, NamedTuple, TypeVar, overload

from tiers.tier import Extent, SupportsDirectIO

# Linux takes 1,024; far fewer already make a request as large as a drive likes.
_MAX_BUFFERS = 64

Memory = TypeVar("Memory", memoryview, range)
"""Bytes of a slot: themselves, or where they lie in the memory of a device."""


class Move(NamedTuple):
    """One block from a slot of the source tier to a slot of the target tier."""

    source_slot: int
    target_slot: int


@dataclass(frozen=True, slots=True)
class Moves(Sequence[Move]):
    """A move for each pair of slots, made when somebody asks for it: who only counts them need not wait for that."""

    source_slots: Sequence[int]
    target_slots: Sequence[int]

    def __len__(self) -> int:
        return len(self.source_slots)

    def __iter__(self) -> Iterator[Move]:
        # Past Move.__new__, which is a function in Python and takes three times as long.
        return map(tuple.__new__, repeat(Move), zip(self.source_slots, self.target_slots, strict=True))

    @overload
    def __getitem__(self, index: int) -> Move: ...
    @overload
    def __getitem__(self, index: slice) -> "Moves": ...
    def __getitem__(self, index: int | slice) -> "Move | Moves":
        if isinstance(index, slice):
            return Moves(self.source_slots[index], self.target_slots[index])
        return Move(self.source_slots[index], self.target_slots[index])


Place = tuple[Move, int]
"""Which bytes of which block: those from that position on."""


@dataclass(frozen=True, slots=True)
class Chunk(Generic[Memory]):
    """A contiguous range of one file and the pieces of memory that belong to it, in file order."""

    fd: int
    offset: int
    nbytes: int
    buffers: tuple[Memory, ...]
    places: tuple[Place, ...]
    """What each buffer holds."""
    required: int
    """Bytes that must move; fewer than ``nbytes`` only where the file ends inside the last page."""


# A plain tuple, like Place: there is one for every block, and a named one costs ten times as much.
_Piece = tuple[Extent, Memory, Place]


def plan_chunks(
    files: SupportsDirectIO,
    memory_of: Callable[[int], Memory],
    moves: Sequence[Move],
    max_nbytes: int,
    *,
    is_write: bool,
) -> list[Chunk[Memory]]:
    """Cut blocks larger than ``max_nbytes`` and join blocks that are neighbours in the file, in file order.

    ``memory_of`` gives the bytes of a slot on the side that is memory.
    """
    pieces = sorted(_pieces(files, memory_of, moves, max_nbytes, is_write=is_write), key=_extent_of)
    chunks: list[Chunk[Memory]] = []
    group: list[_Piece[Memory]] = []
    fd = start = end = required = 0
    for piece in pieces:
        extent = piece[0]
        is_next = (
            extent.offset == end
            and extent.fd == fd
            and required == end - start  # what is there already is whole, so that bytes can follow it
            and end - start + extent.nbytes <= max_nbytes
            and len(group) < _MAX_BUFFERS
        )
        if not is_next:
            if group:
                chunks.append(_join(group, required))
            fd, start, end, required, group = extent.fd, extent.offset, extent.offset, 0, []
        group.append(piece)
        end += extent.nbytes
        required += extent.required
    if group:
        chunks.append(_join(group, required))
    return chunks


def _join(group: Sequence[_Piece[Memory]], required: int) -> Chunk[Memory]:
    first, last = group[0][0], group[-1][0]
    _, buffers, places = zip(*group, strict=True)
    return Chunk(first.fd, first.offset, last.offset + last.nbytes - first.offset, buffers, places, required)


def _extent_of(piece: _Piece[Memory]) -> Extent:
    return piece[0]  # which sorts by file, then offset


def _pieces(
    files: SupportsDirectIO,
    memory_of: Callable[[int], Memory],
    moves: Sequence[Move],
    max_nbytes: int,
    *,
    is_write: bool,
) -> Iterator[_Piece[Memory]]:
    for move in moves:
        source_slot, target_slot = move
        file_slot, memory_slot = (target_slot, source_slot) if is_write else (source_slot, target_slot)
        memory = memory_of(memory_slot)
        position = 0
        for extent in files.extents(file_slot):
            if extent.nbytes <= max_nbytes:
                yield extent, memory[position : position + extent.nbytes], (move, position)
                position += extent.nbytes
                continue
            for start in range(0, extent.nbytes, max_nbytes):
                nbytes = min(max_nbytes, extent.nbytes - start)
                required = max(0, min(nbytes, extent.required - start))
                part = Extent(extent.fd, extent.offset + start, nbytes, required)
                yield part, memory[position : position + nbytes], (move, position)
                position += nbytes
