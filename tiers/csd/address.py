"""The logical address of a page: whose keys or values it holds."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from tiers.csd.pages import PageKind
from tiers.errors import InvalidOptionError

Addresses = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class AddressFields:
    """Task, sequence, layer, kind, head and page, packed into 64 bits, the width of two doublewords of a command.

    InstAttention packs its example into 32 bits, which one doubleword of an NVMe command takes. The ranges wanted here
    do not fit: 128 layers, 64 heads and 8,192 groups (128 K tokens) alone need 26 bits, before a batch or a
    task has a number. ``page`` counts groups in the token index, pages in the channel index.
    """

    task: int = 10
    sequence: int = 14
    layer: int = 9
    kind: int = 2
    head: int = 8
    page: int = 21

    def __post_init__(self) -> None:
        if (total := sum(getattr(self, field.name) for field in fields(self))) != 64:
            raise InvalidOptionError(f"the fields of an address have {total} bits together; they have to be 64")

    def check(self, **values: int) -> None:
        """InvalidOptionError where a number does not fit into its field."""
        for name, value in values.items():
            most = (1 << getattr(self, name)) - 1
            if not 0 <= value <= most:
                raise InvalidOptionError(f"{name} {value} is not addressable; the drive counts from 0 to {most:,}")

    def of_layer(self, task: int, sequence: int, layer: int) -> int:
        """The address of a layer's first page: what the header of a command names it by."""
        upper = (task << self.sequence | sequence) << self.layer | layer
        return upper << (self.kind + self.head + self.page)

    def layer_at(self, address: int) -> tuple[int, int, int]:
        """Task, sequence and layer of an address."""
        upper = address >> (self.kind + self.head + self.page)
        layer, upper = upper & (1 << self.layer) - 1, upper >> self.layer
        return upper >> self.sequence, upper & (1 << self.sequence) - 1, layer

    def pack(
        self, *, task: int, sequence: int, layer: int, kind: PageKind, head: NDArray[np.int64], page: NDArray[np.int64]
    ) -> Addresses:
        """Addresses of pages of one layer of one sequence; ``head`` and ``page`` broadcast against each other."""
        base = np.uint64(self.of_layer(task, sequence, layer) | int(kind) << (self.head + self.page))
        return base | np.asarray(head, np.uint64) << np.uint64(self.page) | np.asarray(page, np.uint64)

    def unpack(self, addresses: Addresses) -> dict[str, NDArray[np.int64]]:
        """The fields of many addresses, by name."""
        found: dict[str, NDArray[np.int64]] = {}
        for field in reversed(fields(self)):
            bits = getattr(self, field.name)
            found[field.name] = (addresses & np.uint64((1 << bits) - 1)).astype(np.int64)
            addresses = addresses >> np.uint64(bits)
        return found


ADDRESS = AddressFields()
