"""Writes a checkpoint as one safetensors file without holding more than one tensor of it."""

import json
import struct
from pathlib import Path

from offload.checkpoint.base import Checkpoint
from tiers.partial_directory import create_file, flush_file


def write_safetensors(checkpoint: Checkpoint, path: Path) -> None:
    """Write all tensors, in the order of the checkpoint. The file is on the drive when this returns."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for info in checkpoint.tensors.values():
        offsets = [position, position + info.nbytes]
        entries[info.name] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": offsets}
        position += info.nbytes
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 64)
    with create_file(path) as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for info in checkpoint.tensors.values():
            for piece in checkpoint.read(info.name, 0, info.nbytes):
                file.write(piece.data)
        flush_file(file)
