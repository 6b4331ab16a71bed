"""Changes of floating point type on raw bytes, as torch makes them, in numpy, which has no bfloat16."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from offload.checkpoint.base import TensorInfo
from tiers.errors import InvalidOptionError

DTYPE_NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""What a user writes -> what safetensors calls it."""

_CONVERTIBLE = {"F64", *DTYPE_NAMES.values()}


def parse_dtype(name: str | None) -> str | None:
    """The safetensors spelling; InvalidOptionError for a type to which weights are not converted."""
    if name is None:
        return None
    if name not in DTYPE_NAMES:
        raise InvalidOptionError(f"--dtype {name}: unknown; choose one of {', '.join(DTYPE_NAMES)}")
    return DTYPE_NAMES[name]


def converted(tensors: Mapping[str, TensorInfo], dtype: str | None) -> dict[str, TensorInfo]:
    """The tensors as they will be. Integers and 8-bit floats, which are parts of a quantisation, stay as they are."""
    return {
        name: TensorInfo(name, dtype, info.shape) if dtype and info.dtype in _CONVERTIBLE else info
        for name, info in tensors.items()
    }


def convert(piece: NDArray[np.uint8], source: str, target: str) -> NDArray[np.uint8]:
    """Bytes of whole elements of one type as bytes of another, rounded to nearest even."""
    if source == target:
        return piece
    with np.errstate(over="ignore"):  # too large becomes infinite, as in torch
        values = _widen(piece) if source == "BF16" else piece.view(_numpy_type(source)).astype(np.float32, copy=False)
        result = _narrow(values) if target == "BF16" else values.astype(_numpy_type(target), copy=False)
    return result.view(np.uint8)


def _numpy_type(dtype: str) -> str:
    return {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]


def _widen(piece: NDArray[np.uint8]) -> NDArray[np.float32]:
    return (piece.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _narrow(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = values.view(np.uint32)
    # Half of the last kept bit, less one where that bit is even: ties go to even. The sum wraps for some NaNs only.
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    rounded[np.isnan(values)] = 0x7FC0
    return rounded
