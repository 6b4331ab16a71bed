"""Writes a packed store piece by piece.

Work happens in ``OUT.partial``, see PartialDirectory. Where an earlier process was killed, the next writer of the same
groups from the same source takes over the arrays that were finished: each was flushed to the drive before its checksums
went into the journal, so what the journal names is there.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from tiers.checksum import crc32c
from tiers.errors import TransferError
from tiers.packed_format import CHECKSUMS, arrays_of, plan_digest, shard_index, store_metadata
from tiers.partial_directory import PartialDirectory, create_file, flush_file, write_file
from tiers.weight_tier import TensorSpec, WeightGroup

Pieces = Iterable[NDArray[np.uint8]]
"""Bytes of a tensor in order; a piece may be overwritten once the next is asked for."""

_TIER = "nvme"
_JOURNAL = ".journal"
_METADATA_NBYTES = 16 * 1024 * 1024
_ZEROS = np.zeros(64 * 1024, np.uint8)


class PackedWriter:
    """``with PackedWriter(out, groups, source=...) as writer: writer.write(read)`` makes the store at ``out``.

    ``source`` names contents: unfinished work of another source is thrown away. More files may be put in ``directory``
    before the end of the ``with``. Raises DiskFullError before anything is written where the file system has no room,
    TierBusyError where another process packs to the same place.
    """

    def __init__(self, out: Path, groups: Sequence[WeightGroup], *, source: str) -> None:
        self.arrays = arrays_of(groups)
        self._partial = PartialDirectory(out)
        self._source = source
        self._finished: dict[str, list[int]] = {}

    @property
    def directory(self) -> Path:
        """Where the store is before it is published."""
        return self._partial.path

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks."""
        return sum(array.nbytes for array in self.arrays)

    @property
    def finished_nbytes(self) -> int:
        """Bytes of the blocks that are already in place, from an earlier attempt or this one."""
        return sum(array.nbytes for array in self.arrays if array.name in self._finished)

    def __enter__(self) -> Self:
        self._partial.__enter__()
        try:
            self._take_over()
            self._partial.require_space(self.nbytes - self.finished_nbytes + _METADATA_NBYTES)
        except BaseException as error:
            self._partial.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            try:
                with self._partial.disk_errors(_METADATA_NBYTES):
                    self._write_metadata()
            except BaseException as failure:
                self._partial.__exit__(type(failure), failure, None)
                raise
        self._partial.__exit__(kind, error, trace)

    def write(
        self, read: Callable[[WeightGroup, TensorSpec], Pieces], progress: Callable[[int], None] | None = None
    ) -> None:
        """Write every array that is not finished, asking ``read`` for each tensor in slot order.

        ``progress`` is told how many bytes were added since it was last told. Raises DiskFullError, TransferError.
        """
        for array in self.arrays:
            if array.name in self._finished:
                continue
            with self._partial.disk_errors(array.nbytes), create_file(self.directory / array.shard_path) as shard:
                blocks = _BlockWriter(shard, progress or (lambda _: None))
                checksums = [blocks.write(group, array.block_nbytes, read) for group in array.groups]
                shard.write(shard_index(array))
                flush_file(shard)
            self._finished[array.name] = checksums
            self._note({"array": array.name, "crc32c": checksums})

    def _write_metadata(self) -> None:
        checksums = [crc for array in self.arrays for crc in self._finished[array.name]]
        write_file(self.directory / CHECKSUMS / "c" / "0", np.array(checksums, "<u4").tobytes())
        for node, metadata in store_metadata(self.arrays, self._source).items():
            write_file(self.directory / node / "zarr.json", json.dumps(metadata).encode())
        (self.directory / _JOURNAL).unlink()

    def _take_over(self) -> None:
        """Adopt what the journal vouches for, remove everything else."""
        header: Any = {"source": self._source, "plan": plan_digest(self.arrays)}
        found, *entries = _read_journal(self.directory / _JOURNAL) or [{}]
        sizes = {array.name: array.nbytes + len(shard_index(array)) for array in self.arrays}
        for entry in entries if found == header else ():
            shard = self.directory / entry["array"] / "c" / "0" / "0"
            if shard.is_file() and shard.stat().st_size == sizes[entry["array"]]:
                self._finished[entry["array"]] = entry["crc32c"]
        for path in self.directory.iterdir():
            if path.name not in self._finished:
                _remove(path)
        # Written anew rather than kept: its last line may be torn.
        self._note(header)
        for name, checksums in self._finished.items():
            self._note({"array": name, "crc32c": checksums})

    def _note(self, entry: dict[str, Any]) -> None:
        with create_file(self.directory / _JOURNAL, append=True) as journal:
            journal.write(json.dumps(entry).encode() + b"\n")
            flush_file(journal)


class _BlockWriter:
    """Lays the tensors of a group out in a file, zeros between them, and sums up as it goes."""

    def __init__(self, file: BinaryIO, progress: Callable[[int], None]) -> None:
        self._file = file
        self._progress = progress
        self._position = 0
        self._crc = 0

    def write(self, group: WeightGroup, stride: int, read: Callable[[WeightGroup, TensorSpec], Pieces]) -> int:
        """Write one block of ``stride`` bytes; returns the checksum of its first ``group.nbytes`` bytes."""
        self._position = self._crc = 0
        for spec in sorted(group.tensors, key=lambda spec: spec.offset):
            self._pad(spec.offset)
            for piece in read(group, spec):
                self._append(piece)
            if self._position != spec.offset + spec.nbytes:
                found = self._position - spec.offset
                raise TransferError(f"{spec.name}: {found:,} bytes came, {spec.nbytes:,} expected", tier=_TIER)
        self._pad(group.nbytes)
        crc = self._crc
        self._pad(stride)
        return crc

    def _append(self, piece: NDArray[np.uint8]) -> None:
        self._file.write(piece.data)
        self._crc = crc32c(piece.data, self._crc)
        self._position += piece.nbytes
        self._progress(piece.nbytes)

    def _pad(self, position: int) -> None:
        while self._position < position:
            self._append(_ZEROS[: position - self._position])


def _read_journal(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return []
    entries = []
    for line in lines:
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            break  # the process was killed while it wrote this line
    return entries


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
