"""Azure's traces of LLM inference: times and lengths in CSV, nothing of what requests have in common."""

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime

from simulators.kv_trace.base import KVTrace, Request
from simulators.kv_trace.lines import Clock, Lines

BLOCK_TOKENS = 512
HEADER = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]


def read_azure(lines: Lines) -> KVTrace:
    """A header, then ``TIMESTAMP,ContextTokens,GeneratedTokens``. Every block is one of its own: no hits."""
    return KVTrace("azure", BLOCK_TOKENS, _requests(lines))


def _requests(lines: Lines) -> Iterator[Request]:
    rest = iter(lines)
    next(rest)
    clock, ids = Clock(lines), itertools.count()
    for text in rest:
        fields = text.split(",")
        if len(fields) != len(HEADER) or not all(field.isascii() and field.isdecimal() for field in fields[1:]):
            lines.fail(f"{text!r} is not '{','.join(HEADER)}'")
        try:
            time = datetime.fromisoformat(fields[0]).replace(tzinfo=UTC).timestamp()
        except ValueError:
            lines.fail(f"{fields[0]!r} is no time; write it like 2023-11-16 18:15:46.680590")
        tokens = int(fields[1])
        blocks = list(itertools.islice(ids, -(-tokens // BLOCK_TOKENS)))
        yield Request(clock.since_start(time), tokens, int(fields[2]), blocks)
