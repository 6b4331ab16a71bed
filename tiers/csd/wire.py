"""How commands and completions look on the link: fixed headers, then the arrays as they are. Nothing is unpickled.

A submission has 64 bytes, a completion 32. What does not fit lies in *data* (host to drive) or in *reply* (drive to
host), which the headers point to; what is asked once and not in every step (Config, Reclaim, Identify, Health, Inspect,
errors) is JSON there. Data of an Attend: a descriptor of 8 bytes (sequence, start) per sequence, which counts as
header, then query, keys, values; its reply: output, then logsumexp. The reply of a ReadKV: keys, then values.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tiers.csd.commands import Config

SUBMISSION = struct.Struct("<BBHIQIIQQQQ8x")
COMPLETION = struct.Struct("<HHIQQQ")
JSON_REPLY_NBYTES = 1 << 16
"""Room for the reply to what is answered in JSON, and for errors."""

DESCRIPTOR = np.dtype([("sequence", "<u4"), ("start", "<u4")])
HAS_TOKEN, WANTS_TRACE, IN_FULL = 1, 2, 4


class Opcode(IntEnum):
    """In the range that NVMe leaves to vendors."""

    CONFIG = 0xC0
    WRITE_KV = 0xC1
    ATTEND = 0xC2
    RECLAIM = 0xC3
    IDENTIFY = 0xC4
    HEALTH = 0xC5
    INSPECT = 0xC6
    READ_KV = 0xC7


class Submission(NamedTuple):
    """The header of a command; ``address`` names task, sequence and layer, ``num_items`` counts tokens or sequences."""

    opcode: int
    flags: int
    tag: int
    num_items: int
    address: int
    start: int
    unused: int
    data_offset: int
    data_nbytes: int
    reply_offset: int
    reply_nbytes: int

    @property
    def wants_trace(self) -> bool:
        return bool(self.flags & WANTS_TRACE)


class CompletionHeader(NamedTuple):
    """The header of a completion."""

    tag: int
    status: int
    unused: int
    first: int
    second: int
    reply_nbytes: int


@dataclass(frozen=True, slots=True)
class Encoded:
    """A command ready to be sent. ``parts`` are its data in order; their first ``descriptor_nbytes`` are header."""

    opcode: Opcode
    parts: Sequence[NDArray[Any]]
    reply_nbytes: int
    address: int = 0
    count: int = 0
    start: int = 0
    flags: int = 0
    descriptor_nbytes: int = 0

    @property
    def data_nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)


def config_from(fields: dict[str, Any]) -> Config:
    """What ``asdict`` made of a Config, by way of JSON."""
    return Config(**{**fields, "dense_layers": tuple(fields["dense_layers"])})


def arrays_in(data: memoryview, parts: Sequence[tuple[tuple[int, ...], str]]) -> list[NDArray[Any]]:
    """Arrays of these shapes and types that lie one behind the other; they look at ``data``."""
    arrays, position = [], 0
    for shape, dtype in parts:
        array = np.frombuffer(data, dtype, math.prod(shape), position)
        position += array.nbytes
        arrays.append(array.reshape(shape))
    return arrays
