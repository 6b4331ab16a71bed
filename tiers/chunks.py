"""What a transfer between a file and memory looks like to the drive. Pure: from moves to I/O requests, no I/O here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tiers.tier import Extent, SupportsDirectIO, SupportsView

# Linux takes 1,024; far fewer already make a request as large as a drive likes.
_MAX_BUFFERS = 64


class Move(NamedTuple):
    """One block from a slot of the source tier to a slot of the target tier."""

    source_slot: int
    target_slot: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A contiguous range of one file and the pieces of memory that belong to it, in file order."""

    fd: int
    offset: int
    buffers: tuple[memoryview, ...]
    required: int
    """Bytes that must move; fewer than the buffers hold only where the file ends inside the last page."""


def plan_chunks(
    files: SupportsDirectIO, memory: SupportsView, moves: Sequence[Move], max_nbytes: int, *, is_write: bool
) -> list[Chunk]:
    """Cut blocks larger than ``max_nbytes`` and join blocks that are neighbours in the file, in file order."""
    pieces = sorted(_pieces(files, memory, moves, max_nbytes, is_write=is_write), key=_extent_of)
    chunks: list[Chunk] = []
    buffers: list[memoryview] = []
    fd = start = end = required = 0
    for extent, buffer in pieces:
        is_next = (
            extent.offset == end
            and extent.fd == fd
            and required == end - start  # what is there already is whole, so that bytes can follow it
            and end - start + extent.nbytes <= max_nbytes
            and len(buffers) < _MAX_BUFFERS
        )
        if not is_next:
            if buffers:
                chunks.append(Chunk(fd, start, tuple(buffers), required))
            fd, start, end, required, buffers = extent.fd, extent.offset, extent.offset, 0, []
        buffers.append(buffer)
        end += extent.nbytes
        required += extent.required
    if buffers:
        chunks.append(Chunk(fd, start, tuple(buffers), required))
    return chunks


def _extent_of(piece: tuple[Extent, memoryview]) -> Extent:
    return piece[0]  # which sorts by file, then offset


def _pieces(
    files: SupportsDirectIO, memory: SupportsView, moves: Sequence[Move], max_nbytes: int, *, is_write: bool
) -> Iterator[tuple[Extent, memoryview]]:
    for source_slot, target_slot in moves:
        file_slot, memory_slot = (target_slot, source_slot) if is_write else (source_slot, target_slot)
        view = memory.view(memory_slot)
        position = 0
        for extent in files.extents(file_slot):
            if extent.nbytes <= max_nbytes:
                yield extent, view[position : position + extent.nbytes]
                position += extent.nbytes
                continue
            for start in range(0, extent.nbytes, max_nbytes):
                nbytes = min(max_nbytes, extent.nbytes - start)
                required = max(0, min(nbytes, extent.required - start))
                part = Extent(extent.fd, extent.offset + start, nbytes, required)
                yield part, view[position : position + nbytes]
                position += nbytes
