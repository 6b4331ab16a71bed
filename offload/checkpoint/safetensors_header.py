"""The header of a safetensors file, read by ourselves because we need byte offsets."""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offload.checkpoint.base import TensorInfo
from tiers.errors import ModelError
from tiers.weight_tier import DTYPE_NBYTES

_MAX_HEADER_NBYTES = 100_000_000
_LFS = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class SafetensorsFile:
    """``begins`` are byte offsets of the tensors from the start of the file; ``header`` is the raw JSON."""

    path: Path
    size: int
    header: bytes
    tensors: dict[str, TensorInfo]
    begins: dict[str, int]


def read_header(path: Path) -> SafetensorsFile:
    """Read and check one file; ModelError says what is wrong with it and what to do."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(len(_LFS))
            refuse_lfs_pointer(path, start)
            if len(start) < 8:
                raise ModelError(f"{path}: {size} bytes, no safetensors file; download it again")
            (nbytes,) = struct.unpack("<Q", start[:8])
            if nbytes > min(_MAX_HEADER_NBYTES, max(0, size - 8)):
                what = f"its header of {nbytes:,} bytes does not fit in {size:,}"
                raise ModelError(f"{path}: {what}; the file is truncated or no safetensors, download it again")
            file.seek(8)
            header = file.read(nbytes)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}; check the path and its permissions") from None
    tensors, begins, end = _parse(path, header)
    if end != size:
        problem = "truncated" if size < end else "damaged"
        raise ModelError(f"{path}: {size:,} bytes, its header says {end:,}; the file is {problem}, download it again")
    return SafetensorsFile(path, size, header, tensors, begins)


def refuse_lfs_pointer(path: Path, start: bytes) -> None:
    """ModelError if a file begins like the note that git leaves in place of a large file."""
    if start.startswith(_LFS):
        raise ModelError(f"{path}: a Git LFS pointer, not the weights; run 'git lfs pull' in {path.parent}")


def _parse(path: Path, header: bytes) -> tuple[dict[str, TensorInfo], dict[str, int], int]:
    data_start = 8 + len(header)
    tensors: dict[str, TensorInfo] = {}
    begins: dict[str, int] = {}
    end = data_start
    try:
        entries: dict[str, Any] = json.loads(header)
        entries.pop("__metadata__", None)
        for name, entry in entries.items():
            tensors[name], begin, stop = _parse_entry(name, entry)
            begins[name] = data_start + begin
            end = max(end, data_start + stop)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = f"unreadable header ({type(error).__name__}: {error})"
        raise ModelError(f"{path}: {problem}; no safetensors file or damaged, download it again") from None
    return tensors, begins, end


def _parse_entry(name: str, entry: dict[str, Any]) -> tuple[TensorInfo, int, int]:
    """A tensor and its byte range in the data section; ValueError where they do not fit together."""
    info = TensorInfo(name, str(entry["dtype"]), tuple(int(n) for n in entry["shape"]))
    if info.dtype not in DTYPE_NBYTES:
        raise ValueError(f"{name} has type {info.dtype}, known are {', '.join(DTYPE_NBYTES)}")
    begin, stop = (int(offset) for offset in entry["data_offsets"])
    if begin < 0 or min(info.shape, default=1) < 0 or stop - begin != info.nbytes:
        raise ValueError(f"{name} has offsets {begin}..{stop} and shape {info.shape}")
    return info, begin, stop
