"""The seam behind which a memory lives, and the small abilities that some memories have beyond it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from tiers.io_queue import IOQueue
from tiers.slots import ALIGNMENT, SlotLayout, align_down, align_up

if TYPE_CHECKING:
    # Importing tiers must not load torch: what simulates starts without it.
    import torch


class Extent(NamedTuple):
    """A range of an open file; ``required`` is less than ``nbytes`` only where alignment reaches past its end."""

    fd: int
    offset: int
    nbytes: int
    required: int


class Tier(ABC):
    """A place with ``num_slots`` slots of ``block_nbytes`` bytes.

    ``read`` and ``write`` are the plain, blocking way: correct and slow. The TransferEngine uses the abilities below
    where a tier has them. A tier knows neither keys nor who may use a slot: that is for BlockPool and manager to know.
    """

    name: str
    num_slots: int
    block_nbytes: int

    @abstractmethod
    def read(self, slot: int, buffer: memoryview) -> None:
        """Fill ``buffer`` with the first ``len(buffer)`` bytes of a slot; raises TransferError, CorruptBlockError."""

    @abstractmethod
    def write(self, slot: int, buffer: memoryview) -> None:
        """Store ``buffer`` at the start of a slot; raises TransferError, DiskFullError."""

    @abstractmethod
    def close(self) -> None:
        """Give everything back. Closing twice does nothing."""


@runtime_checkable
class SupportsView(Protocol):
    """A tier in this process's address space."""

    def view(self, slot: int) -> memoryview:
        """The bytes of a slot themselves, writable, aligned to ``ALIGNMENT``, without a copy."""
        ...


@runtime_checkable
class SupportsDeviceTensor(Protocol):
    """A tier in the memory of a device that torch computes on."""

    def tensor(self, slot: int) -> "torch.Tensor":
        """The bytes of a slot themselves, uint8, without a copy."""
        ...


@runtime_checkable
class SupportsMemory(Protocol):
    """A tier that is one piece of memory, the host's or a device's, in which many slots can be looked up at once."""

    def flat(self) -> "memoryview | torch.Tensor":
        """All of it: a memoryview, or a flat uint8 tensor on the device."""
        ...

    def layout(self) -> SlotLayout:
        """Where the slots lie in it."""
        ...


@runtime_checkable
class SupportsDirectIO(Protocol):
    """A tier in files: the engine reads and writes the ranges itself, many at a time."""

    def extents(self, slot: int) -> Sequence[Extent]:
        """The ranges whose bytes, one after the other, are the slot's."""
        ...

    def open_queue(self, depth: int) -> IOQueue:
        """A queue that suits these files, for one link; the caller closes it."""
        ...


@runtime_checkable
class SupportsChecksum(Protocol):
    """A tier that remembers checksums. Called on the engine's thread, which computes the CRC32C of a slot's extents."""

    def seal(self, slot: int, checksum: int) -> None:
        """Remember the checksum of a block that was written, or UNSEALED before that begins."""
        ...

    def verify(self, slot: int, checksum: int) -> None:
        """Compare the checksum of a block that was just read; raises CorruptBlockError."""
        ...


__all__ = [
    "ALIGNMENT",
    "Extent",
    "SupportsChecksum",
    "SupportsDeviceTensor",
    "SupportsDirectIO",
    "SupportsMemory",
    "SupportsView",
    "Tier",
    "align_down",
    "align_up",
]
