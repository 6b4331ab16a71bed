"""Our own traces: JSON lines, the first of which says what the others are."""

from collections.abc import Iterable, Iterator
from typing import Any

from simulators.kv_trace.base import KVTrace, Request
from simulators.kv_trace.lines import Clock, Lines

FORMAT = "offload-kv-trace-1"


def is_stored(record: dict[str, Any]) -> bool:
    """Whether the first record of a file is ours."""
    return "format" in record


def read_stored(lines: Lines) -> KVTrace:
    """A header with ``format`` and ``block_tokens``; then the fields of Request by their names."""
    rest = iter(lines)
    header = lines.parse_object(next(rest))
    if header["format"] != FORMAT:
        lines.fail(f"is of the format {header['format']!r}, not {FORMAT}")
    return KVTrace("offload", lines.count(header, "block_tokens", least=1), _requests(lines, rest))


def stored_lines(block_tokens: int, requests: Iterable[Request]) -> Iterator[dict[str, Any]]:
    """The records of such a file."""
    yield {"format": FORMAT, "block_tokens": block_tokens}
    for request in requests:
        yield request._asdict()


def _requests(lines: Lines, rest: Iterator[str]) -> Iterator[Request]:
    clock = Clock(lines)
    for text in rest:
        record = lines.parse_object(text)
        arrival = clock.since_start(lines.number_of(record, "arrival_s"))
        yield Request(
            arrival,
            lines.count(record, "input_tokens"),
            lines.count(record, "output_tokens"),
            lines.ids(record, "blocks"),
        )
