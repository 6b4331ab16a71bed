"""LMCache's logs of lookups: JSON lines with the hashes of the chunks that each request asked for."""

from collections.abc import Iterator
from typing import Any

from simulators.kv_trace.base import KVTrace, Numbers, Request
from simulators.kv_trace.lines import Clock, Lines


def is_lmcache(record: dict[str, Any]) -> bool:
    """Whether the first record of a file is one of these."""
    return "chunk_hashes" in record


def read_lmcache(lines: Lines) -> KVTrace:
    """``timestamp`` in s, ``seq_len``, ``chunk_size``, ``chunk_hashes``; what was generated is not in it.

    One model a log: chunks of another size raise TraceError.
    """
    records = _records(lines)
    first = next(records)
    chunk = lines.count(first, "chunk_size", least=1)
    return KVTrace("lmcache", chunk, _requests(lines, first, records, chunk))


def _records(lines: Lines) -> Iterator[dict[str, Any]]:
    return (lines.parse_object(text) for text in lines)


def _requests(
    lines: Lines, record: dict[str, Any] | None, records: Iterator[dict[str, Any]], chunk: int
) -> Iterator[Request]:
    clock, numbers = Clock(lines), Numbers()
    while record is not None:
        if lines.count(record, "chunk_size", least=1) != chunk:
            lines.fail(f"'chunk_size' is {record['chunk_size']} where it was {chunk}; split the log by model")
        hashes = lines.hashes(record, "chunk_hashes")
        arrival = clock.since_start(lines.number_of(record, "timestamp"))
        yield Request(arrival, lines.count(record, "seq_len"), 0, [numbers.of(name) for name in hashes])
        record = next(records, None)
