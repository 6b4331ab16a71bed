"""What dies are asked to do, as arrays, sorted by die."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulators.flash.drive import DriveParameters
from tiers.errors import InvalidOptionError

Floats = NDArray[np.float64]

_KINDS = 256
"""Numbers of kinds are bytes."""


@dataclass(frozen=True, slots=True)
class OperationTimes:
    """Seconds of each kind of operation, one array per stage.

    An operation keeps its die busy from the start of ``before`` to the end of ``after``, and its channel during
    ``transfer``: a read senses, then transfers; a program transfers, then programs. ``filtered`` follows the transfer
    in the channel's own filter, while die and channel go on.
    """

    before: Floats
    transfer: Floats
    after: Floats
    filtered: Floats


@dataclass(frozen=True, slots=True)
class Queues:
    """Operations of each die in their order. Die ``d`` of channel ``c`` has number ``c * dies_per_channel + d``.

    Its operations are ``kinds[offsets[number] : offsets[number + 1]]``, rows of the OperationTimes.
    """

    dies_per_channel: int
    offsets: NDArray[np.int64]
    kinds: NDArray[np.uint8]

    @property
    def channels(self) -> int:
        """Channels."""
        return (len(self.offsets) - 1) // self.dies_per_channel

    @property
    def num_operations(self) -> int:
        """Over all dies."""
        return len(self.kinds)


def operation_times(drive: DriveParameters) -> OperationTimes:
    """Kinds: a sense of which 1 .. ``pages_per_sense`` pages are transferred, then a program of 1 .., then an erase."""
    reads = np.arange(1.0, drive.pages_per_sense + 1)
    programs = np.arange(1.0, drive.pages_per_program + 1)
    none, nothing = np.zeros(len(reads)), np.zeros(len(programs) + 1)
    page_s = drive.page_transfer_s
    return OperationTimes(
        before=np.concatenate([none + drive.sense_s, nothing]),
        transfer=np.concatenate([reads * page_s, programs * page_s, [drive.command_s]]),
        after=np.concatenate([none, nothing[1:] + drive.program_s, [drive.erase_s]]),
        filtered=np.concatenate([reads * (drive.page_nbytes / drive.filter_bytes_per_s), nothing]),
    )


def read_kinds(pages: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Kinds of senses that bring ``pages`` pages each."""
    return (pages - 1).astype(np.uint8)


def program_kinds(drive: DriveParameters, pages: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Kinds of programs of ``pages`` pages each."""
    return (drive.pages_per_sense + pages - 1).astype(np.uint8)


def erase_kind(drive: DriveParameters) -> int:
    """The kind of an erase."""
    return drive.pages_per_sense + drive.pages_per_program


def with_waits(times: OperationTimes, busy_s: Floats) -> tuple[OperationTimes, NDArray[np.uint8]]:
    """``times`` with operations that only wait, and [dies] the kind that keeps each die for its ``busy_s``.

    Where there are more lengths than kinds are left, they are rounded up to as many steps.
    """
    room = _KINDS - len(times.before) - 1
    waits, which = np.unique(np.maximum(busy_s, 0.0), return_inverse=True)
    if len(waits) > room:
        step = waits[-1] / room
        waits, which = np.unique(np.ceil(np.maximum(busy_s, 0.0) / step) * step, return_inverse=True)
    nothing = np.zeros(len(waits))
    extended = OperationTimes(
        before=np.concatenate([times.before, waits]),
        transfer=np.concatenate([times.transfer, nothing]),
        after=np.concatenate([times.after, nothing]),
        filtered=np.concatenate([times.filtered, nothing]),
    )
    return extended, (len(times.before) + which).astype(np.uint8)


def queues_of(drive: DriveParameters, channel: ArrayLike, die: ArrayLike, kinds: NDArray[np.uint8]) -> Queues:
    """Sort operations by die, each die's in the order given. InvalidOptionError for a die that there is not."""
    channels, dies = np.asarray(channel, np.int64), np.asarray(die, np.int64)
    _check("channel", channels, drive.channels)
    _check("die", dies, drive.dies_per_channel)
    # Sorting 16-bit numbers is a radix sort, several times as fast as that of wider ones.
    numbers = (channels * drive.dies_per_channel + dies).astype(np.uint16 if drive.num_dies <= 2**16 else np.int64)
    offsets = np.zeros(drive.num_dies + 1, np.int64)
    np.cumsum(np.bincount(numbers, minlength=drive.num_dies), out=offsets[1:])
    if kinds.size and (kinds != kinds[0]).any():
        kinds = kinds[np.argsort(numbers, kind="stable")]
    return Queues(drive.dies_per_channel, offsets, kinds)


def _check(name: str, values: NDArray[np.int64], count: int) -> None:
    if values.size and not (values.min() >= 0 and values.max() < count):
        raise InvalidOptionError(
            f"{name} {values.min()} to {values.max()} is not on the drive; it has {count} (0 to {count - 1})"
        )
