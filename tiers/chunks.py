"""What a transfer between a file and memory looks like to the drive. Pure: from moves to I/O requests, no I/O here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tiers.tier import Extent, SupportsDirectIO, SupportsView

# Linux takes 1,024; far fewer already make a request as large as a drive likes.
_MAX_BUFFERS = 64


@dataclass(frozen=True, slots=True)
class Move:
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
    pieces = sorted(_pieces(files, memory, moves, max_nbytes, is_write=is_write), key=_file_order)
    chunks: list[Chunk] = []
    extents: list[Extent] = []
    buffers: list[memoryview] = []
    nbytes = 0
    for extent, buffer in pieces:
        if extents and not (
            extents[-1].fd == extent.fd
            and extents[-1].offset + extents[-1].nbytes == extent.offset
            and extents[-1].required == extents[-1].nbytes
            and nbytes + extent.nbytes <= max_nbytes
            and len(buffers) < _MAX_BUFFERS
        ):
            chunks.append(_chunk(extents, buffers))
            extents, buffers, nbytes = [], [], 0
        extents.append(extent)
        buffers.append(buffer)
        nbytes += extent.nbytes
    if extents:
        chunks.append(_chunk(extents, buffers))
    return chunks


def _file_order(piece: tuple[Extent, memoryview]) -> tuple[int, int]:
    return piece[0].fd, piece[0].offset


def _chunk(extents: list[Extent], buffers: list[memoryview]) -> Chunk:
    required = sum(extent.required for extent in extents)
    return Chunk(extents[0].fd, extents[0].offset, tuple(buffers), required)


def _pieces(
    files: SupportsDirectIO, memory: SupportsView, moves: Sequence[Move], max_nbytes: int, *, is_write: bool
) -> Iterator[tuple[Extent, memoryview]]:
    for move in moves:
        file_slot = move.target_slot if is_write else move.source_slot
        view = memory.view(move.source_slot if is_write else move.target_slot)
        position = 0
        for extent in files.extents(file_slot):
            for start in range(0, extent.nbytes, max_nbytes):
                nbytes = min(max_nbytes, extent.nbytes - start)
                required = max(0, min(nbytes, extent.required - start))
                yield (
                    Extent(extent.fd, extent.offset + start, nbytes, required),
                    view[position : position + nbytes],
                )
                position += nbytes
