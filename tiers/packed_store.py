"""Packed model weights: one Zarr v3 group in which every block can be read with O_DIRECT.

    OUT/zarr.json               group; attributes "offload": {format, source, arrays in slot order}
    OUT/layers.0/zarr.json      uint8 [1, nbytes]; attributes "groups": key, kind and tensors of each block
    OUT/layers.0/c/0/0          its one shard: the block, then the index
    OUT/head/c/0/0              all n slices of the output head: uint8 [n, slice nbytes]
    OUT/crc32c/c/0              uint32 [number of groups]: CRC32C of each group's bytes, in slot order

Nothing is compressed and a chunk is a block, so a read is a copy. Blocks are multiples of 4096 bytes and stand at the
start of their shard, the index after them, so every chunk offset is a multiple of 4096. The last slice of a head may
fill less than its block: its checksum covers the group's ``nbytes``, zeros follow. The root repeats the metadata of the
arrays ("consolidated metadata"), so that opening a store reads one JSON file.
"""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tiers.checksum import crc32c
from tiers.direct_file import DirectFile
from tiers.errors import CorruptBlockError, ModelError, TierError
from tiers.packed_format import CHECKSUMS, PackedArray, parse_root, shard_index
from tiers.packed_writer import PackedWriter
from tiers.tier import Extent
from tiers.weight_tier import WeightTier

__all__ = ["PackedStore", "PackedWriter", "is_packed_store"]

_CURE = "the store is damaged, pack the model again"


def is_packed_store(path: Path) -> bool:
    """Whether a directory says of itself that it is a packed store; it may still be damaged."""
    try:
        attributes = json.loads((path / "zarr.json").read_text())["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return isinstance(attributes, dict) and "offload" in attributes


class PackedStore(WeightTier):
    """A packed store opened for reading. Implements SupportsChecksum besides SupportsDirectIO.

    ``source`` identifies the checkpoint that it was packed from. Raises ModelError where the directory is no packed
    store, is of another format, or has lost or grown bytes; the bytes of a block are checked whenever it is read.
    """

    def __init__(self, path: Path) -> None:
        files: list[DirectFile] = []
        try:
            arrays, self.source = parse_root(_read_root(path))
            for array in arrays:
                files.append(DirectFile(path / array.shard_path))
                _check_shard(array, files[-1])
            self._checksums = _read_checksums(path, sum(len(array.groups) for array in arrays))
        except BaseException as error:
            for file in files:
                file.close()
            if isinstance(error, ValueError) and not isinstance(error, ModelError):
                raise ModelError(f"{path}: {error}; {_CURE}") from None
            raise
        groups = [group for array in arrays for group in array.groups]
        extents = [
            (Extent(file.fd, index * array.block_nbytes, group.nbytes, group.nbytes),)
            for array, file in zip(arrays, files, strict=True)
            for index, group in enumerate(array.groups)
        ]
        super().__init__(path, groups, extents, files)

    def read(self, slot: int, buffer: memoryview) -> None:
        """Blocking read of a group. A whole group is checked; a part of one cannot be."""
        super().read(slot, buffer)
        if buffer.nbytes >= self.groups[slot].nbytes:
            self.verify(slot, crc32c(buffer[: self.groups[slot].nbytes]))

    def seal(self, slot: int, checksum: int) -> None:
        """Weights are never written: raises TierError."""
        raise TierError(f"{self.path}: model weights are read only", tier=self.name)

    def verify(self, slot: int, checksum: int) -> None:
        expected = int(self._checksums[slot])
        if checksum != expected:
            block = f"{self.groups[slot].key.name} of {self.path}"
            raise CorruptBlockError(self.name, block=block, expected=expected, found=checksum)


def _read_root(path: Path) -> str:
    try:
        return (path / "zarr.json").read_text(encoding="utf-8")
    except OSError as error:
        raise ModelError(f"{path}: no packed store here: zarr.json: {error.strerror}") from None


def _check_shard(array: PackedArray, file: DirectFile) -> None:
    index = shard_index(array)
    wanted = array.nbytes + len(index)
    if file.size != wanted:
        raise ModelError(f"{file.path}: {file.size:,} bytes, {wanted:,} expected; {_CURE}")
    with file.path.open("rb") as shard:
        shard.seek(array.nbytes)
        if shard.read() != index:
            raise ModelError(f"{file.path}: its index does not match zarr.json; {_CURE}")


def _read_checksums(path: Path, count: int) -> NDArray[np.uint32]:
    file = path / CHECKSUMS / "c" / "0"
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise ModelError(f"{file}: {error.strerror}; {_CURE}") from None
    if len(raw) != 4 * count:
        raise ModelError(f"{file}: {len(raw)} bytes, {4 * count} expected; {_CURE}")
    return np.frombuffer(raw, "<u4")
