"""What every kind of checkpoint offers to the code that packs it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiers.weight_tier import DTYPE_NBYTES

PIECE_NBYTES = 4 * 1024 * 1024
"""Bytes that a reader hands over at a time: large enough for the drive, small beside any tensor that matters."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor of a checkpoint; ``dtype`` is a key of DTYPE_NBYTES."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPE_NBYTES[self.dtype]

    @property
    def row_nbytes(self) -> int:
        """Bytes of one index of the first dimension."""
        return math.prod(self.shape[1:]) * DTYPE_NBYTES[self.dtype]


class Checkpoint(ABC):
    """An open checkpoint. ``config`` is what config.json says, ``tensors`` the stored tensors by name.

    ``fingerprint`` changes when the files change. ``close`` gives the files back.
    """

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    fingerprint: str

    @abstractmethod
    def read(self, name: str, start: int, stop: int) -> Iterator[NDArray[np.uint8]]:
        """Bytes ``[start, stop)`` of a tensor in pieces, each valid until the next; raises TransferError."""

    @abstractmethod
    def write_model_files(self, directory: Path) -> None:
        """Put config.json, the tokenizer and whatever else transformers wants beside the weights into a directory."""

    @abstractmethod
    def close(self) -> None:
        """Closing twice does nothing."""
