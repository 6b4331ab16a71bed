"""Keys and values that live in computational drives: tensors in, tensors out."""

import itertools
import math
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tiers.csd.commands import Attend, Config, ReadKV, Reclaim, WriteKV
from tiers.csd.drive_array import DriveArray
from tiers.csd.engines.registry import EXACT
from tiers.csd.wire import Opcode
from tiers.errors import DeviceGoneError, InvalidOptionError, ModelError

if TYPE_CHECKING:
    from tiers.csd.commands import Written
    from tiers.csd.pending import Pending

_CHECKED_EVERY = 32
"""Decode steps of a layer for one of which an engine that reads a part is compared with one that reads all."""


class KVDrives:
    """The drives of one model; all caches of it share them. ``close`` ends their processes."""

    def __init__(self, drives: DriveArray, config: Config) -> None:
        """Start the task of ``config``. Raises InvalidOptionError, DeviceGoneError, TransferError."""
        self._drives = drives
        self._config = config
        self._numbers = itertools.count()
        self._abandoned: deque[list[int]] = deque()
        self._writes: deque[Pending[Written]] = deque()
        self._waited_s = 0.0
        self._num_tokens: Counter[int] = Counter()
        self._loss = AttentionLoss()
        self.measures_loss = config.engine != EXACT
        """Whether a sparse engine is compared with a dense one from time to time, which reads everything."""
        self.peak_nbytes = 0
        self._token_nbytes = (1 + config.key_copies) * config.kv_heads * config.head_dim
        self._token_nbytes *= np.dtype(config.dtype).itemsize
        drives.configure(config)

    @property
    def capacity_nbytes(self) -> int:
        """Of the flash of all drives."""
        return self._drives.capacity_nbytes

    @property
    def used_nbytes(self) -> int:
        """By the tokens that the drives hold, with both copies of their keys."""
        return self._num_tokens.total() * self._token_nbytes

    @property
    def attend_nbytes(self) -> int:
        """What decode steps moved over the link, both ways and headers included."""
        return self._drives.traffic[Opcode.ATTEND].nbytes

    @property
    def pages_read(self) -> int:
        """Of the flash of all drives, since they were started."""
        return sum(health.pages_read for health in self._drives.health())

    @property
    def pids(self) -> list[int]:
        """Of the drives' processes."""
        return [drive.pid for drive in self._drives.drives]

    @property
    def attention_error(self) -> float | None:
        """See ``AttentionLoss``; None where everything is read, or nothing was."""
        return self._loss.error

    @property
    def modelled_s(self) -> float:
        """What real drives would have taken so far, if they were given a timing."""
        return self._drives.modelled_s

    def links(self) -> dict[str, tuple[int, float]]:
        """Bytes that went over each direction of the link, headers and all, and the seconds that were waited for it."""
        sent = sum(traffic.sent_nbytes + traffic.header_nbytes for traffic in self._drives.traffic.values())
        received = sum(traffic.received_nbytes for traffic in self._drives.traffic.values())
        return {"device->csd": (sent, self._waited_s), "csd->device": (received, self._waited_s)}

    def check_shape(self, layer: int, heads: int, key_dim: int, value_dim: int) -> None:
        """ModelError unless a layer caches what the drives were configured for."""
        config = self._config
        if (heads, key_dim, value_dim) != (config.kv_heads, config.head_dim, config.head_dim):
            raise ModelError(
                f"layer {layer} has {heads} KV heads of {key_dim} and {value_dim} numbers, the drives take "
                f"{config.kv_heads} of {config.head_dim}; this architecture is not supported with --csd"
            )

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
            for sequence in sequences:
                self._num_tokens.pop(sequence, None)
            with suppress(DeviceGoneError):  # a drive that was closed, or died, has forgotten them already
                self._drives.reclaim(Reclaim(self._config.task, tuple(sequences)))

    def write(self, layer: int, sequence: int, start: int, keys: Tensor, values: Tensor) -> None:
        """Append tokens, [tokens, kv_heads, head_dim]; returns while they are on their way."""
        pages = [_to_array(part, self._config.dtype).swapaxes(0, 1) for part in (keys, values)]
        self._writes.append(self._drives.write_kv(WriteKV(self._config.task, sequence, layer, start, *pages)))
        self._add(sequence, keys.shape[0])

    def read(self, layer: int, sequence: int, num_tokens: int) -> tuple[Tensor, Tensor]:
        """The first tokens of a sequence, [num_tokens, kv_heads, head_dim] each."""
        self._finish_writes()
        found = self._drives.read_kv(ReadKV(self._config.task, sequence, layer, 0, num_tokens)).wait()
        keys, values = (torch.from_numpy(part.swapaxes(0, 1).copy()) for part in (found.keys, found.values))
        return keys, values

    def attend(
        self, layer: int, sequences: Sequence[int], starts: Sequence[int], query: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Append a token to each sequence and attend to all of it.

        query [batch, heads, head_dim], scaled so that the drives' own factor, head_dim ** -0.5, is right; keys and
        values [batch, kv_heads, head_dim] -> output like query, logsumexp [batch, heads] in float32.
        """
        config = self._config
        command = Attend(
            config.task,
            layer,
            np.asarray(sequences, np.int64),
            np.asarray(starts, np.int64),
            _to_array(query, config.link_dtype),
            _to_array(keys, config.dtype),
            _to_array(values, config.dtype),
        )
        start_s = time.perf_counter()
        self._finish_writes()
        answer = self._drives.attend(command).wait()
        self._waited_s += time.perf_counter() - start_s
        for sequence in sequences:
            self._add(sequence, 1)
        if self.measures_loss and self._loss.wants(layer):
            starts_now = command.starts + 1
            in_full = replace(command, starts=starts_now, keys=None, values=None, in_full=True)
            self._loss.note(answer.output, self._drives.attend(in_full).wait().output)
        return torch.tensor(answer.output), torch.tensor(answer.logsumexp)

    def close(self) -> None:
        """Idempotent."""
        self._drives.close()

    def _finish_writes(self) -> None:
        """What went wrong with a write is told before anybody relies on it."""
        while self._writes:
            self._writes.popleft().wait()

    def _add(self, sequence: int, num_tokens: int) -> None:
        self._num_tokens[sequence] += num_tokens
        self.peak_nbytes = max(self.peak_nbytes, self.used_nbytes)


class AttentionLoss:
    """What a sparse engine misses, measured while it is used: one step in so many, each layer by itself.

    ``error`` is the relative L2 distance of its outputs from those of attention to everything that is stored.
    """

    def __init__(self) -> None:
        self._steps: Counter[int] = Counter()
        self._missed = self._whole = 0.0

    @property
    def error(self) -> float | None:
        return math.sqrt(self._missed / self._whole) if self._whole else None

    def wants(self, layer: int) -> bool:
        """Whether this step of a layer is one to compare; layers take turns, so that no step waits for all of them."""
        self._steps[layer] += 1
        return (self._steps[layer] + layer) % _CHECKED_EVERY == 1

    def note(self, found: NDArray[Any], whole: NDArray[Any]) -> None:
        """The outputs of a step, and what they should have been."""
        whole = whole.astype(np.float64)
        self._missed += float(np.square(found - whole).sum())
        self._whole += float(np.square(whole).sum())


class DriveSequences:
    """The rows of one cache in the drives, the same ones for all its layers."""

    def __init__(self, drives: KVDrives) -> None:
        self._drives = drives
        self._numbers: list[int] = []
        self._num_tokens: dict[tuple[int, int], int] = {}
        """Tokens by layer and row."""

    def open(self, batch: int) -> None:
        """Have ``batch`` rows; nothing to do if a layer before has asked for them already."""
        if not self._numbers:
            self._numbers[:] = self._drives.new_sequences(batch)
        assert len(self._numbers) == batch, "all layers have the same rows"

    def check_shape(self, layer: int, heads: int, key_dim: int, value_dim: int) -> None:
        """See KVDrives."""
        self._drives.check_shape(layer, heads, key_dim, value_dim)

    def num_tokens(self, layer: int, row: int) -> int:
        """What the drives hold of a row."""
        return self._num_tokens.get((layer, row), 0)

    def write(self, layer: int, row: int, keys: Tensor, values: Tensor) -> None:
        """Append tokens, [tokens, kv_heads, head_dim]."""
        if keys.shape[0]:
            start = self.num_tokens(layer, row)
            self._drives.write(layer, self._numbers[row], start, keys, values)
            self._num_tokens[layer, row] = start + keys.shape[0]

    def read(self, layer: int, row: int) -> tuple[Tensor, Tensor]:
        """All that the drives hold of a row, [tokens, kv_heads, head_dim]."""
        return self._drives.read(layer, self._numbers[row], self.num_tokens(layer, row))

    def attend(self, layer: int, query: Tensor, keys: Tensor, values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """A token of every row; see KVDrives."""
        starts = [self.num_tokens(layer, row) for row in range(len(self._numbers))]
        factor = scale * query.shape[-1] ** 0.5
        query = query if factor == 1 else query * factor
        answer = self._drives.attend(layer, self._numbers, starts, query, keys, values)
        for row, start in enumerate(starts):
            self._num_tokens[layer, row] = start + 1
        return answer

    def close(self) -> None:
        """Give the rows back."""
        numbers, self._numbers[:] = list(self._numbers), []
        self._num_tokens.clear()
        self._drives.forget(numbers)

    def abandon(self) -> None:
        """The cache is gone; see KVDrives."""
        if self._numbers:
            self._drives.abandon(list(self._numbers))


def _to_array(tensor: Tensor, dtype: str) -> NDArray[Any]:
    """On the host in a type that pages know. InvalidOptionError for a number too large for half precision."""
    array = tensor.detach().to(dtype=getattr(torch, dtype), device="cpu").numpy()
    if dtype == "float16" and tensor.dtype != torch.float16 and not np.isfinite(array).all():
        raise InvalidOptionError(
            "--csd: keys or values of this model do not fit into float16, the type of the drives' pages"
        )
    return array
