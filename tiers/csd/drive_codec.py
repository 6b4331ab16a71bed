"""The drive's side of the wire: headers and data into commands, completions into replies."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiers.csd import commands
from tiers.csd.address import ADDRESS
from tiers.csd.wire import DESCRIPTOR, HAS_TOKEN, IN_FULL, Opcode, Submission, arrays_in, config_from

ConfigOf = Callable[[int], commands.Config]
"""The configuration of a task; raises InvalidOptionError."""


def decode(header: Submission, data: memoryview, config_of: ConfigOf) -> commands.Command:
    """In the drive: the command behind a header. Its arrays look at ``data``."""
    match Opcode(header.opcode):
        case Opcode.WRITE_KV:
            task, sequence, layer = ADDRESS.layer_at(header.address)
            config = config_of(task)
            shape = (config.kv_heads, header.num_items, config.head_dim)
            keys, values = arrays_in(data, [(shape, config.dtype), (shape, config.dtype)])
            return commands.WriteKV(task, sequence, layer, header.start, keys, values)
        case Opcode.ATTEND:
            return _decode_attend(header, data, config_of)
        case Opcode.READ_KV:
            task, sequence, layer = ADDRESS.layer_at(header.address)
            return commands.ReadKV(task, sequence, layer, header.start, header.num_items)
        case opcode:
            return _SMALL[opcode](json.loads(bytes(data)) if data.nbytes else {})


def encode_completion(completion: commands.Completion, reply: memoryview) -> tuple[int, int, int]:
    """In the drive: fill ``reply``; returns the two numbers of the header, and how many bytes were filled."""
    match completion:
        case commands.Written():
            return completion.num_tokens, completion.num_flushed, 0
        case commands.Configured():
            return completion.tokens_per_group, completion.channels_per_page, 0
        case commands.Reclaimed():
            return completion.num_pages, 0, 0
        case commands.Attended():
            return 0, 0, _fill(reply, completion.output, completion.logsumexp)
        case commands.TokensRead():
            return 0, 0, _fill(reply, completion.keys, completion.values)
        case _:
            return 0, 0, fill_json(reply, asdict(completion))


def fill_json(reply: memoryview, fields: dict[str, Any]) -> int:
    """Write ``fields`` and return how many bytes that took."""
    data = json.dumps(fields).encode()
    reply[: len(data)] = data
    return len(data)


_SMALL: dict[Opcode, Callable[[dict[str, Any]], commands.Command]] = {
    Opcode.CONFIG: config_from,
    Opcode.RECLAIM: lambda fields: commands.Reclaim(fields["task"], tuple(fields["sequences"])),
    Opcode.INSPECT: lambda fields: commands.Inspect(**fields),
    Opcode.IDENTIFY: lambda _: commands.Identify(),
    Opcode.HEALTH: lambda _: commands.Health(),
}


def _fill(reply: memoryview, *parts: NDArray[Any]) -> int:
    nbytes = 0
    for part in parts:
        reply[nbytes : nbytes + part.nbytes] = part.reshape(-1).data.cast("B")
        nbytes += part.nbytes
    return nbytes


def _decode_attend(header: Submission, data: memoryview, config_of: ConfigOf) -> commands.Attend:
    task, _, layer = ADDRESS.layer_at(header.address)
    config, batch = config_of(task), header.num_items
    of_token = ((batch, config.kv_heads, config.head_dim), config.dtype)
    descriptor_nbytes = batch * DESCRIPTOR.itemsize
    descriptors = np.frombuffer(data[:descriptor_nbytes], DESCRIPTOR)
    query_shape = (batch, config.kv_heads * config.heads_per_kv, config.head_dim)
    token = [of_token, of_token] if header.flags & HAS_TOKEN else []
    query, *pair = arrays_in(data[descriptor_nbytes:], [(query_shape, config.link_dtype), *token])
    keys, values = pair or (None, None)
    sequences, starts = (descriptors[name].astype(np.int64) for name in ("sequence", "start"))
    return commands.Attend(task, layer, sequences, starts, query, keys, values, bool(header.flags & IN_FULL))
