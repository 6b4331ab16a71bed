"""Mooncake's traces (FAST 2025): JSON lines with time, lengths and blocks of 512 tokens of each request."""

from collections.abc import Iterable, Iterator
from typing import Any

from simulators.kv_trace.base import KVTrace, Request
from simulators.kv_trace.lines import Clock, Lines
from tiers.errors import InvalidOptionError

BLOCK_TOKENS = 512


def is_mooncake(record: dict[str, Any]) -> bool:
    """Whether the first record of a file is one of these."""
    return "hash_ids" in record


def read_mooncake(lines: Lines) -> KVTrace:
    """``timestamp`` in ms, ``input_length``, ``output_length``, ``hash_ids`` with one id a block of the prompt."""
    return KVTrace("mooncake", BLOCK_TOKENS, _requests(lines))


def mooncake_lines(block_tokens: int, requests: Iterable[Request]) -> Iterator[dict[str, Any]]:
    """The records of such a file; times are rounded to milliseconds. InvalidOptionError for blocks of another size."""
    if block_tokens != BLOCK_TOKENS:
        raise InvalidOptionError(
            f"blocks of {block_tokens} tokens are not Mooncake's, which have {BLOCK_TOKENS}; write --to offload"
        )
    for request in requests:
        yield {
            "timestamp": round(request.arrival_s * 1000),
            "input_length": request.input_tokens,
            "output_length": request.output_tokens,
            "hash_ids": request.blocks,
        }


def _requests(lines: Lines) -> Iterator[Request]:
    clock = Clock(lines)
    for text in lines:
        record = lines.parse_object(text)
        arrival = clock.since_start(lines.number_of(record, "timestamp") / 1000)
        yield Request(
            arrival,
            lines.count(record, "input_length"),
            lines.count(record, "output_length"),
            lines.ids(record, "hash_ids"),
        )
