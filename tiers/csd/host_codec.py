"""The host's side of the wire: commands into headers and data, replies into completions."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from tiers.csd import commands
from tiers.csd.address import ADDRESS
from tiers.csd.geometry import FlashGeometry
from tiers.csd.queue_path import on_device, tensors_in
from tiers.csd.wire import (
    DESCRIPTOR,
    HAS_TOKEN,
    IN_FULL,
    JSON_REPLY_NBYTES,
    WANTS_TRACE,
    CompletionHeader,
    Encoded,
    Opcode,
    arrays_in,
)
from tiers.errors import InvalidOptionError

if TYPE_CHECKING:
    import torch


def encode(command: commands.Command, config: commands.Config | None, *, wants_trace: bool = False) -> Encoded:
    """``config`` of the command's task, for the commands that carry arrays. InvalidOptionError for wrong shapes."""
    trace = WANTS_TRACE if wants_trace else 0
    match command:
        case commands.WriteKV():
            config = _known(config, command.task)
            n = command.keys.shape[1] if command.keys.ndim == 3 else 0
            keys, values = (
                _array(name, part, (config.kv_heads, n, config.head_dim), config.dtype)
                for name, part in (("keys", command.keys), ("values", command.values))
            )
            address = _address(command.task, command.sequence, command.layer)
            return Encoded(
                Opcode.WRITE_KV, (keys, values), JSON_REPLY_NBYTES, address, n, _unsigned(command.start), trace
            )
        case commands.Attend():
            return _encode_attend(command, _known(config, command.task), trace)
        case commands.ReadKV():
            config = _known(config, command.task)
            nbytes = 2 * config.kv_heads * command.num_tokens * config.head_dim * np.dtype(config.dtype).itemsize
            address = _address(command.task, command.sequence, command.layer)
            count, start = _unsigned(command.num_tokens), _unsigned(command.start)
            return Encoded(Opcode.READ_KV, (), max(nbytes, JSON_REPLY_NBYTES), address, count, start, trace)
        case _:
            fields = asdict(command)
            return Encoded(_SMALL[type(command)], (_json(fields),) if fields else (), JSON_REPLY_NBYTES)


def decode_completion(
    command: commands.Command,
    config: commands.Config | None,
    header: CompletionHeader,
    reply: "bytearray | torch.Tensor",
) -> commands.Completion:
    """On the host: what ``command`` was answered; in tensors where it was asked in tensors."""
    match command:
        case commands.WriteKV():
            return commands.Written(header.first, header.second)
        case commands.Attend():
            config = _known(config, command.task)
            batch, heads = command.query.shape[:2]
            shapes = [((batch, heads, config.head_dim), config.link_dtype), ((batch, heads), "float32")]
            output, logsumexp = (
                arrays_in(memoryview(reply), shapes) if isinstance(reply, bytearray) else tensors_in(reply, shapes)
            )
            return commands.Attended(output, logsumexp)
        case commands.ReadKV():
            config = _known(config, command.task)
            shape = (config.kv_heads, command.num_tokens, config.head_dim)
            keys, values = arrays_in(memoryview(cast("bytearray", reply)), [(shape, config.dtype)] * 2)
            return commands.TokensRead(keys, values)
        case commands.Config():
            return commands.Configured(header.first, header.second)
        case commands.Reclaim():
            return commands.Reclaimed(header.first)
        case _:
            return _REPORTS[type(command)](json.loads(cast("bytearray", reply)))


def _identity(fields: dict[str, Any]) -> commands.DriveIdentity:
    geometry, engines = FlashGeometry(**fields.pop("geometry")), tuple(fields.pop("engines"))
    return commands.DriveIdentity(geometry=geometry, engines=engines, **fields)


_SMALL: dict[type[commands.Command], Opcode] = {
    commands.Config: Opcode.CONFIG,
    commands.Reclaim: Opcode.RECLAIM,
    commands.Inspect: Opcode.INSPECT,
    commands.Identify: Opcode.IDENTIFY,
    commands.Health: Opcode.HEALTH,
}
_REPORTS: dict[type[commands.Command], Callable[[dict[str, Any]], commands.Completion]] = {
    commands.Identify: _identity,
    commands.Health: lambda fields: commands.DriveHealth(**fields),
    commands.Inspect: lambda fields: commands.SequenceState(tuple(fields["num_tokens"]), tuple(fields["num_flushed"])),
}


def _encode_attend(command: commands.Attend, config: commands.Config, trace: int) -> Encoded:
    batch = len(command.sequences)
    if batch == 0 or len(command.starts) != batch:
        raise InvalidOptionError(f"attend: {batch} sequences and {len(command.starts)} starts; name each once")
    if (command.keys is None) != (command.values is None):
        raise InvalidOptionError("attend: keys and values of the new tokens come together or not at all")
    for name, numbers in (("sequence", command.sequences), ("start", command.starts)):
        # A number that does not fit its field would wrap, and name somebody else's tokens.
        if wrong := [number for number in np.asarray(numbers).tolist() if not 0 <= number < 1 << 32]:
            raise InvalidOptionError(f"attend: {name} {wrong[0]} is not addressable; the drive counts from 0")
    descriptors = np.empty(batch, DESCRIPTOR)
    descriptors["sequence"], descriptors["start"] = command.sequences, command.starts
    heads = config.kv_heads * config.heads_per_kv
    query = _array("query", command.query, (batch, heads, config.head_dim), config.link_dtype)
    of_token = (batch, config.kv_heads, config.head_dim)
    pairs = (("keys", command.keys), ("values", command.values))
    token = [_array(name, part, of_token, config.dtype) for name, part in pairs if part is not None]
    return Encoded(
        Opcode.ATTEND,
        (descriptors, query, *token),
        # What did not go well is said in JSON.
        max(query.nbytes + 4 * batch * heads, JSON_REPLY_NBYTES),
        _address(command.task, 0, command.layer),
        count=batch,
        flags=trace | (HAS_TOKEN if token else 0) | (IN_FULL if command.in_full else 0),
        descriptor_nbytes=descriptors.nbytes,
    )


def _array(name: str, array: NDArray[Any], shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    if array.shape != shape:
        raise InvalidOptionError(f"{name} have shape {array.shape}; the task of the drive takes {shape}")
    if not on_device(array):
        return array.astype(dtype, copy=False)
    # The bytes of a tensor go as they are: those of another type would be garbage.
    if str(array.dtype) != f"torch.{dtype}":
        raise InvalidOptionError(f"{name} are {array.dtype}; the task of the drive takes torch.{dtype}: convert them")
    return array


def _known(config: commands.Config | None, task: int) -> commands.Config:
    if config is None:
        raise InvalidOptionError(f"task {task} is not configured; send its configuration first")
    return config


def _address(task: int, sequence: int, layer: int) -> int:
    ADDRESS.check(task=task, sequence=sequence, layer=layer)
    return ADDRESS.of_layer(task, sequence, layer)


def _unsigned(start: int) -> int:
    if not 0 <= start < 1 << 32:
        raise InvalidOptionError(f"start {start} is no number of tokens")
    return start


def _json(fields: dict[str, Any]) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(fields).encode(), np.uint8)
