"""Keys and values that live in computational drives: tensors in, tensors out."""

import itertools
import time
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offload.attention.partial import PartialAttention
from offload.kv.attention_loss import AttentionLoss
from offload.kv.new_tokens import NewTokens
from tiers.csd.commands import Attend, Config, ReadKV, Reclaim, WriteKV
from tiers.csd.drive_array import DriveArray
from tiers.csd.engines.registry import EXACT
from tiers.csd.queue_path import as_array
from tiers.csd.traffic import LinkTraffic
from tiers.csd.wire import Opcode
from tiers.errors import DeviceGoneError, InvalidOptionError, ModelError, OffloadError

if TYPE_CHECKING:
    from offload.kv.drive_rows import DriveRows
    from offload.kv.host_room import HostRoom
    from tiers.csd.commands import Attended, Written
    from tiers.csd.pending import Pending


class NewestHolder(Protocol):
    """Who holds the newest tokens of a row: the drives, or the host until there are enough of them for a write."""

    @property
    def room(self) -> "HostRoom":
        """What they take of the host's memory."""
        ...

    def rows(self, drives: "KVDrives") -> "DriveRows":
        """Of a new cache."""
        ...


class DriveUsage:
    """Bytes of the tokens that drives hold, with both copies of their keys, and seconds that were waited for them."""

    def __init__(self) -> None:
        self.nbytes = self.peak_nbytes = 0
        self.waited_s = 0.0

    def add(self, nbytes: int) -> None:
        """Or remove, if negative."""
        self.nbytes += nbytes
        self.peak_nbytes = max(self.peak_nbytes, self.nbytes)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Somebody waits for an answer meanwhile."""
        start_s = time.perf_counter()
        try:
            yield
        finally:
            self.waited_s += time.perf_counter() - start_s


class KVDrives:
    """The drives of one model; all caches of it share them. ``close`` ends their processes."""

    def __init__(
        self, drives: DriveArray, config: Config, newest: NewestHolder, usage: "DriveUsage | None" = None
    ) -> None:
        """Start the task of ``config``; ``usage`` is that of all tasks of these drives.

        Raises InvalidOptionError, DeviceGoneError, TransferError.
        """
        self.usage = usage or DriveUsage()
        self.newest = newest
        self._drives = drives
        self._config = config
        self._numbers = itertools.count()
        self._abandoned: deque[list[int]] = deque()
        self._writes: deque[tuple[int, Pending[Written]]] = deque()
        """Of which sequence, in the order in which drives carry them out."""
        self._failed: dict[int, OffloadError] = {}
        """What first went wrong with the writes of a sequence."""
        self._num_tokens: Counter[int] = Counter()
        self._loss = AttentionLoss()
        self.measures_loss = config.engine != EXACT
        """Whether a sparse engine is compared with a dense one from time to time, which reads everything."""
        self._token_nbytes = (1 + config.key_copies) * config.kv_heads * config.head_dim
        self._token_nbytes *= np.dtype(config.dtype).itemsize
        drives.configure(config)

    @property
    def capacity_nbytes(self) -> int:
        """Of the flash of all drives."""
        return self._drives.capacity_nbytes

    @property
    def notes(self) -> list[str]:
        """What is slower than it could be on the way to them and why, one line each."""
        return self._drives.notes

    @property
    def link_nbytes(self) -> int:
        """What attention, writes and reads moved over the link, both ways and headers included."""
        traffic = self._drives.traffic
        return sum(traffic[opcode].nbytes for opcode in (Opcode.ATTEND, Opcode.WRITE_KV, Opcode.READ_KV))

    @property
    def kv_shape(self) -> tuple[int, int]:
        """KV heads, and numbers of a key or value."""
        return self._config.kv_heads, self._config.head_dim

    @property
    def pages_read(self) -> int:
        """Of the flash of all drives, since they were started."""
        return sum(health.pages_read for health in self._drives.health())

    @property
    def attention_error(self) -> float | None:
        """See ``AttentionLoss``; None where everything is read, or nothing was.

        Of the drives' part: what the host holds, or makes again of inputs, is exact and merged with it afterwards.
        """
        return self._loss.error

    @property
    def modelled_s(self) -> float:
        """What real drives would have taken so far, if they were given a timing."""
        return self._drives.modelled_s

    def traffic(self) -> dict[Opcode, LinkTraffic]:
        """What went over the links of all drives, by kind of command."""
        return self._drives.traffic

    def links(self) -> dict[str, tuple[int, float]]:
        """Bytes that went over each direction of the link, headers and all, and the seconds that were waited for it."""
        sent = sum(traffic.sent_nbytes + traffic.header_nbytes for traffic in self._drives.traffic.values())
        received = sum(traffic.received_nbytes for traffic in self._drives.traffic.values())
        return {"device->csd": (sent, self.usage.waited_s), "csd->device": (received, self.usage.waited_s)}

    def check_shape(self, layer: int, heads: int, key_dim: int, value_dim: int) -> None:
        """ModelError unless a layer caches what the drives were configured for."""
        config = self._config
        if (heads, key_dim, value_dim) != (config.kv_heads, config.head_dim, config.head_dim):
            raise ModelError(
                f"layer {layer} has {heads} KV heads of {key_dim} and {value_dim} numbers, the drives take "
                f"{config.kv_heads} of {config.head_dim}; this architecture is not supported with --csd"
            )

    def new_rows(self) -> "DriveRows":
        """Those of a new cache."""
        return self.newest.rows(self)

    def new_sequences(self, count: int) -> list[int]:
        """Numbers that no other sequence has. Sequences of dropped caches are given back first."""
        while self._abandoned:
            self.forget(self._abandoned.popleft())
        return list(itertools.islice(self._numbers, count))

    def abandon(self, sequences: list[int]) -> None:
        """Their cache is gone. Called by the garbage collector at any moment: only takes note."""
        self._abandoned.append(sequences)

    def forget(self, sequences: Sequence[int]) -> None:
        """Nobody will ask for these any more."""
        if sequences:
            self._settle_writes()
            for sequence in sequences:
                self._failed.pop(sequence, None)
                self.usage.add(-self._num_tokens.pop(sequence, 0) * self._token_nbytes)
            with suppress(DeviceGoneError):  # a drive that was closed, or died, has forgotten them already
                self._drives.reclaim(Reclaim(self._config.task, tuple(sequences)))

    def write(self, layer: int, sequence: int, start: int, keys: Tensor, values: Tensor) -> None:
        """Append tokens, [tokens, kv_heads, head_dim]; returns while they are on their way."""
        pages = [self._sent(part, self._config.dtype).swapaxes(0, 1) for part in (keys, values)]
        write = self._drives.write_kv(WriteKV(self._config.task, sequence, layer, start, *pages))
        self._writes.append((sequence, write))
        self._add(sequence, keys.shape[0])

    def read(self, layer: int, sequence: int, num_tokens: int) -> tuple[Tensor, Tensor]:
        """The first tokens of a sequence, [num_tokens, kv_heads, head_dim] each."""
        with self.usage.waiting():
            self.finish_writes((sequence,))
            found = self._drives.read_kv(ReadKV(self._config.task, sequence, layer, 0, num_tokens)).wait()
        keys, values = (torch.from_numpy(part.swapaxes(0, 1).copy()) for part in (found.keys, found.values))
        return keys, values

    def ask(
        self,
        layer: int,
        sequences: Sequence[int],
        starts: Sequence[int],
        query: Tensor,
        tokens: NewTokens | None,
    ) -> "Asked":
        """Have the drives attend to all of each sequence, ``starts`` tokens, and to one of ``tokens`` behind these.

        query [sequences, heads, head_dim], scaled so that the drives' own factor, head_dim ** -0.5, is right.
        """
        config = self._config
        pair = (None, None) if tokens is None else (tokens.keys, tokens.values)
        keys, values = (None if part is None else self._sent(part, config.dtype) for part in pair)
        command = Attend(
            config.task,
            layer,
            np.asarray(sequences, np.int64),
            np.asarray(starts, np.int64),
            self._sent(query, config.link_dtype),
            keys,
            values,
        )
        pending = self._drives.attend(command)
        for sequence in sequences if tokens is not None else ():
            self._add(sequence, 1)
        return Asked(self, command, pending)

    def finish(self, command: Attend, pending: "Pending[Attended]") -> PartialAttention:
        """Wait for what ``ask`` asked. What went wrong with the writes before it is raised first."""
        with self.usage.waiting():
            self.finish_writes(command.sequences.tolist())
            answer = pending.wait()
        if self.measures_loss and self._loss.wants(command.layer):
            held = command.starts + (command.keys is not None)
            in_full = replace(command, starts=held, keys=None, values=None, in_full=True)
            whole = self._drives.attend(in_full).wait().output
            self._loss.note(*(_tensor(output).cpu().numpy() for output in (answer.output, whole)))
        return PartialAttention(_tensor(answer.output), _tensor(answer.logsumexp))

    def close(self) -> None:
        """Idempotent."""
        self._drives.close()

    def _sent(self, tensor: Tensor, dtype: str) -> NDArray[Any]:
        """As the drives take it: from the device's own memory where there is a way, else as an array of the host."""
        return _to_array(tensor, dtype, stays=self._drives.drives[0].device is not None)

    def finish_writes(self, sequences: Collection[int] | None = None) -> None:
        """What went wrong with the writes of ``sequences``, or of any, is told before anybody relies on them."""
        self._settle_writes()
        for sequence, error in self._failed.items():
            if sequences is None or sequence in sequences:
                raise error

    def _settle_writes(self) -> None:
        """Drives carry them out in order, so nobody waits longer for those of others, whose errors are theirs alone."""
        while self._writes:
            sequence, write = self._writes.popleft()
            try:
                write.wait()
            except OffloadError as error:
                self._failed.setdefault(sequence, error)

    def _add(self, sequence: int, num_tokens: int) -> None:
        self._num_tokens[sequence] += num_tokens
        self.usage.add(num_tokens * self._token_nbytes)


class Asked:
    """Attention that the drives are computing."""

    def __init__(self, drives: KVDrives, command: Attend, pending: "Pending[Attended]") -> None:
        self._drives, self._command, self._pending = drives, command, pending

    def wait(self) -> PartialAttention:
        """Output [sequences, heads, head_dim] and logsumexp [sequences, heads]; raises what the drives raise."""
        return self._drives.finish(self._command, self._pending)


def _to_array(tensor: Tensor, dtype: str, *, stays: bool) -> NDArray[Any]:
    """In a type that pages know, on the host or where it is.

    InvalidOptionError for a number too large for half precision.
    """
    converted = tensor.detach().to(dtype=getattr(torch, dtype))
    array = as_array(converted) if stays else converted.cpu().numpy()
    if dtype == "float16" and tensor.dtype != torch.float16 and not bool(torch.isfinite(converted).all()):
        raise InvalidOptionError(
            "--csd: keys or values of this model do not fit into float16, the type of the drives' pages"
        )
    return array


def _tensor(array: object) -> Tensor:
    return array if isinstance(array, Tensor) else torch.from_numpy(array)
