"""What the flash of an emulated drive did, page by page, for a model of time. A real drive would not tell."""

import struct
from dataclasses import dataclass, field

import numpy as np

from tiers.csd.geometry import PageNumbers

PROGRAMMED = "program"
"""The phase of pages that were written, in the background too."""
COPIED = "copy"
"""The phase of pages of the token index that were read back for the channel index, in the background too."""
ERASED = "erase"
"""The phase of erases; its numbers are those of erase blocks."""

_PART = struct.Struct("<II")  # bytes of the name, numbers


@dataclass(slots=True)
class Trace:
    """Physical pages by phase, in the order of the phases; those of other names were read by an engine."""

    _parts: dict[str, list[PageNumbers]] = field(default_factory=dict)

    def add(self, phase: str, pages: PageNumbers) -> None:
        """Adding to a phase again continues it."""
        self._parts.setdefault(phase, []).append(pages)

    @property
    def phases(self) -> dict[str, PageNumbers]:
        """Pages of each phase."""
        return {phase: np.concatenate(parts) for phase, parts in self._parts.items()}

    def pack(self) -> bytes:
        """As bytes."""
        packed = []
        for phase, pages in self.phases.items():
            name = phase.encode()
            packed += [_PART.pack(len(name), pages.size), name, pages.astype("<u4").tobytes()]
        return b"".join(packed)

    @classmethod
    def unpack(cls, data: bytes) -> "Trace":
        """What ``pack`` made."""
        trace, position = cls(), 0
        while position < len(data):
            name_nbytes, size = _PART.unpack_from(data, position)
            start = position + _PART.size + name_nbytes
            name = data[start - name_nbytes : start].decode()
            trace.add(name, np.frombuffer(data, "<u4", size, start).astype(np.int64))
            position = start + 4 * size
        return trace
