"""vLLM's KV events, one batch of them a line: which blocks its own cache stored, and after which block.

An event tells what was stored, not what was found. But a block is stored right after its parent, so the blocks before
it in its prefix had to be there: a request is taken to have used all of them. Requests that store nothing are not seen.
Each piece of a prompt that is taken in pieces, and each full block of an answer, is an event of its own: it looks like
one more request, which finds all before it.
"""

from collections.abc import Iterator
from typing import Any

from simulators.kv_trace.base import KVTrace, Numbers, Request
from simulators.kv_trace.lines import Lines

_STORED, _OTHERS = "BlockStored", ("BlockRemoved", "AllBlocksCleared")
_FIELDS = ("block_hashes", "parent_block_hash", "token_ids", "block_size")


def is_vllm(record: object) -> bool:
    """Whether the first record of a file is one of these."""
    return isinstance(record, dict) and isinstance(record.get("events"), list)


def read_vllm(lines: Lines) -> KVTrace:
    """Batches as objects ``{ts, events}``, events as objects with their ``type``, or both as vLLM's arrays.

    One size of blocks a log. Times that run backwards, as those of several ranks may, count as the latest one before.
    """
    stored = _stored(lines)
    first = next(stored, None)
    block_tokens = 1 if first is None else lines.count(first[1], "block_size", least=1)
    return KVTrace("vllm", block_tokens, _requests(lines, first, stored, block_tokens))


def _requests(
    lines: Lines,
    one: tuple[float, dict[str, Any]] | None,
    stored: Iterator[tuple[float, dict[str, Any]]],
    block_tokens: int,
) -> Iterator[Request]:
    numbers = Numbers()
    parents: dict[int, int | None] = {}
    start = None if one is None else one[0]
    latest = 0.0
    while one is not None:
        time, event = one
        assert start is not None
        latest = max(latest, time - start)
        if lines.count(event, "block_size", least=1) != block_tokens:
            lines.fail(f"'block_size' is {event['block_size']} where it was {block_tokens}; split the log by model")
        parent = None if event.get("parent_block_hash") is None else numbers.of(event["parent_block_hash"])
        new = [numbers.of(name) for name in lines.hashes(event, "block_hashes")]
        for block in new:
            parents.setdefault(block, parent)
            parent = block
        blocks = _prefix(parents, new[-1]) if new else []
        yield Request(latest, len(blocks) * block_tokens, 0, blocks)
        one = next(stored, None)


def _prefix(parents: dict[int, int | None], last: int) -> list[int]:
    """A block and all before it. A parent that was stored before the log began is where the prefix begins."""
    blocks: list[int] = []
    block: int | None = last
    seen: set[int] = set()
    while block is not None and block not in seen:
        blocks.append(block)
        seen.add(block)
        block = parents.get(block)
    return blocks[::-1]


def _stored(lines: Lines) -> Iterator[tuple[float, dict[str, Any]]]:
    """Time and fields of every event that stored blocks."""
    for text in lines:
        batch = lines.parse(text)
        if isinstance(batch, list):
            batch = dict(zip(("ts", "events"), batch, strict=False))
        if not isinstance(batch, dict) or not isinstance(batch.get("events"), list):
            lines.fail("is no batch of events; write {'ts': seconds, 'events': [...]} a line")
        time = lines.number_of(batch, "ts")
        for event in batch["events"]:
            fields = _fields(lines, event)
            if fields is not None:
                yield time, fields


def _fields(lines: Lines, event: object) -> dict[str, Any] | None:
    if isinstance(event, list) and event:
        event = {"type": event[0], **dict(zip(_FIELDS, event[1:], strict=False))}
    kind = event.get("type") if isinstance(event, dict) else None
    if kind in _OTHERS:
        return None
    if kind != _STORED or not isinstance(event, dict):
        lines.fail(f"{kind!r} is no event; there are {_STORED}, {', '.join(_OTHERS)}")
    return event
