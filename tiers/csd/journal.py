"""What the drive has to remember of itself when the power goes: records, appended one after the other.

There are two areas. One is in use; when it is full, the state of the drive is written to the other as if it had just
come to be (between BEGIN and READY), and that one is used from then on. An area counts only once its READY is there,
so whatever moment the power goes at, one of them is whole. A record counts if its CRC32C is right and its serial
number is the next one; the first that does not count is the end, and the pages it spoke of were never acknowledged.
"""

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tiers.checksum import crc32c

_HEADER = struct.Struct("<IIHHIQ")  # CRC32C of what follows and of the payload, magic, kind, 0, payload bytes, serial
_MAGIC = 0x4A44_5343


class RecordKind(IntEnum):
    """What a record says."""

    BEGIN = 1
    """An area starts here."""
    WEAR = 2
    """Erases of every block so far, uint32."""
    OPENED = 3
    """Blocks (int64) that may be programmed from now on."""
    TASK = 4
    """A task and the shape of its keys and values, JSON."""
    FLUSHED = 5
    """Pages that hold something from now on: PAGE_RECORD each. All of them, or (no record) none."""
    FINISHED = 6
    """Sequences (task and sequence, int64) whose pages are dead."""
    ERASED = 7
    """Blocks (int64) that are empty again."""
    READY = 8
    """The state at the start of the area is complete; from here on it is what happened since."""
    ORDER = 9
    """How the channels of a layer lie in its channel index: task, sequence and layer, then [heads, channels], int64."""


PAGE_RECORD = np.dtype([("address", "<u8"), ("page", "<u4"), ("crc", "<u4"), ("seed", "<u4")])
"""What a page holds, where it lies, and its checksum, which goes on from ``seed``; see ``chain``."""


class Record(NamedTuple):
    """One record of the journal."""

    kind: RecordKind
    payload: bytes

    def numbers(self) -> NDArray[np.int64]:
        """A payload that is a list of numbers."""
        return np.frombuffer(self.payload, "<i8").astype(np.int64)


class Writable(Protocol):
    """What a journal is kept in: see ``ImageFile``."""

    bytes: NDArray[np.uint8]

    def write(self, offset: int, data: memoryview) -> None: ...


class Journal:
    """Appends to one of two areas of a file. ``replay`` comes first, then ``restart``, then ``append``."""

    def __init__(self, file: Writable, areas: tuple[range, range]) -> None:
        self._file = file
        self._areas = areas
        self._area = 0
        self._end = 0
        self._serial = 0
        self._highest = 0  # serial number that was ever used, also by a state that was never complete

    def replay(self) -> Iterator[Record]:
        """Every record of the newest area that is whole; none in an image that was just made."""
        found = [(first, index) for index in range(2) if (first := self._first_serial(index)) is not None]
        if not found:
            return
        _, self._area = max(found)
        for serial, end, record in self._records(self._area):
            self._serial, self._end = serial, end
            yield record

    def has_room(self, payload_nbytes: int) -> bool:
        """Whether a record would fit; if not, ``restart``."""
        return self._end + _HEADER.size + payload_nbytes <= self._areas[self._area].stop

    def append(self, kind: RecordKind, payload: bytes) -> None:
        """The record is kept from the moment in which this returns. Raises TransferError."""
        assert self.has_room(len(payload)), "restart comes first"
        data = _pack(kind, payload, self._serial + 1)
        self._file.write(self._end, memoryview(data))
        self._serial += 1
        self._highest = max(self._highest, self._serial)
        self._end += len(data)

    def restart(self, state: Iterable[tuple[RecordKind, bytes]]) -> None:
        """Go over to the other area, which starts with the records of the state of now. Raises TransferError."""
        previous = (self._area, self._end, self._serial)
        self._area = 1 - self._area
        self._end = self._areas[self._area].start
        # What an earlier attempt left in this area has lower numbers, and so never passes for what follows.
        self._serial = self._highest
        try:
            self.append(RecordKind.BEGIN, b"")
            for kind, payload in state:
                self.append(kind, payload)
            self.append(RecordKind.READY, b"")
        except BaseException:
            self._area, self._end, self._serial = previous
            raise

    def _first_serial(self, area: int) -> int | None:
        """The first serial number of an area that is whole. Looks at all of it, to learn the highest number used."""
        first: int | None = None
        is_whole = False
        for serial, _, record in self._records(area):
            first = serial if first is None else first
            is_whole = is_whole or record.kind is RecordKind.READY
            self._highest = max(self._highest, serial)
        return first if is_whole else None

    def _records(self, area: int) -> Iterator[tuple[int, int, Record]]:
        """Serial number, end and content of the records from the start of an area."""
        position, stop = self._areas[area].start, self._areas[area].stop
        expected: int | None = None
        while position + _HEADER.size <= stop:
            header = self._file.bytes[position : position + _HEADER.size].tobytes()
            crc, magic, kind, _, nbytes, serial = _HEADER.unpack(header)
            body = position + _HEADER.size
            if magic != _MAGIC or body + nbytes > stop or (expected is not None and serial != expected):
                return
            payload = self._file.bytes[body : body + nbytes].tobytes()
            if crc != crc32c(memoryview(header[4:] + payload)):
                return
            if expected is None and kind != RecordKind.BEGIN:
                return
            position, expected = body + nbytes, serial + 1
            yield serial, position, Record(RecordKind(kind), payload)


def _pack(kind: RecordKind, payload: bytes, serial: int) -> bytes:
    content = _HEADER.pack(0, _MAGIC, kind, 0, len(payload), serial)[4:] + payload
    return struct.pack("<I", crc32c(memoryview(content))) + content
