"""A trace of requests, read as a stream: what each of them shares with others, how long it is and when it came."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tiers.block import PLACE_SHIFT, BlockKey, PrefixBlockKey


class Request(NamedTuple):
    """One request. ``blocks`` are the ids of the blocks of its prompt, the first one of the prefix first.

    Requests with the same id have the same tokens up to the end of that block. The last block may be short.
    """

    arrival_s: float
    """Since the first request of the trace; never less than that of the request before."""
    input_tokens: int
    output_tokens: int
    blocks: list[int]


@dataclass(frozen=True, slots=True)
class KVTrace:
    """A trace that can be read once, request by request; reading may raise TraceError with the file and the line."""

    format: str
    block_tokens: int
    """Tokens of a block."""
    requests: Iterator[Request]


class KeyTable:
    """The keys of blocks. One object for each: a dict finds an object that it holds without comparing it."""

    def __init__(self) -> None:
        self._keys: dict[int, BlockKey] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def keys(self, blocks: list[int]) -> list[BlockKey]:
        """One key a block, numbered as they appear; where it first stood in a prompt is its place."""
        known = self._keys
        if not all(map(known.__contains__, blocks)):
            for depth, block in enumerate(blocks):
                if block not in known:
                    known[block] = PrefixBlockKey(depth << PLACE_SHIFT | len(known))
        return list(map(known.__getitem__, blocks))


class Numbers:
    """Numbers ids of any kind in the order in which they first appear."""

    def __init__(self) -> None:
        self._numbers: dict[object, int] = {}

    def of(self, name: object) -> int:
        """The number of an id."""
        return self._numbers.setdefault(name, len(self._numbers))
