"""Where the rows of one cache are that are attended to outside the device: in drives, or on their way there."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from offload.attention.partial import PartialAttention
from offload.kv.drives import Asked, KVDrives
from offload.kv.host_room import HostRoom
from offload.kv.new_tokens import NewTokens


@dataclass(frozen=True, slots=True, eq=False)
class InDrives:
    """Drives hold the newest tokens too: each travels with its query, and the host keeps none."""

    room: HostRoom = field(default_factory=lambda: HostRoom(0))

    def rows(self, drives: KVDrives) -> "DriveSequences":
        """Of a new cache."""
        return DriveSequences(drives)


class DriveRows(Protocol):
    """The rows of one cache, the same ones for all its layers. Rows grow at their end, each at its own pace."""

    def open(self, layer: int, keys: Tensor, values: Tensor, inputs: Tensor | None) -> None:
        """Get ready for the first tokens of a layer, [batch, kv_heads, tokens, head_dim]; stores none of them.

        ``inputs`` [batch, tokens, width]: what they are made of, where somebody watches that.

        Raises ModelError where they are not what the drives were configured for.
        """
        ...

    def num_tokens(self, layer: int, row: int) -> int:
        """What is held of a row."""
        ...

    def write(self, layer: int, row: int, tokens: NewTokens) -> None:
        """Append tokens."""
        ...

    def read(self, layer: int, row: int) -> tuple[Tensor, Tensor]:
        """All that is held of a row, [tokens, kv_heads, head_dim], not always in its order."""
        ...

    def attend(self, layer: int, query: Tensor, tokens: NewTokens, scale: float) -> PartialAttention:
        """Append a token to every row, and attend to all of each.

        query [batch, heads, head_dim]; ``tokens`` has one of each row -> output like query, logsumexp [batch, heads].
        """
        ...

    def close(self) -> None:
        """Give the rows back; they are empty afterwards."""
        ...

    def abandon(self) -> None:
        """The cache is gone. Called by the garbage collector at any moment: only takes note."""
        ...


class DriveSequences:
    """Rows all of whose tokens are in drives: a new one travels with its query."""

    def __init__(self, drives: KVDrives) -> None:
        self._drives = drives
        self._numbers: list[int] = []
        self._num_tokens: dict[tuple[int, int], int] = {}
        """Tokens by layer and row."""

    def open(self, layer: int, keys: Tensor, values: Tensor, inputs: Tensor | None) -> None:
        """See DriveRows."""
        batch, heads, _, key_dim = keys.shape
        self._drives.check_shape(layer, heads, key_dim, values.shape[-1])
        if not self._numbers:
            self._numbers[:] = self._drives.new_sequences(batch)
        assert len(self._numbers) == batch, "all layers have the same rows"

    def num_tokens(self, layer: int, row: int) -> int:
        """See DriveRows."""
        return self._num_tokens.get((layer, row), 0)

    def write(self, layer: int, row: int, tokens: NewTokens) -> None:
        """See DriveRows; returns while they are on their way."""
        if len(tokens):
            start = self.num_tokens(layer, row)
            self._drives.write(layer, self._numbers[row], start, tokens.keys, tokens.values)
            self._num_tokens[layer, row] = start + len(tokens)

    def read(self, layer: int, row: int) -> tuple[Tensor, Tensor]:
        """See DriveRows."""
        return self._drives.read(layer, self._numbers[row], self.num_tokens(layer, row))

    def attend(self, layer: int, query: Tensor, tokens: NewTokens, scale: float) -> PartialAttention:
        """See DriveRows."""
        rows = range(len(self._numbers))
        found = self.ask(layer, rows, query, scale, tokens).wait()
        for row in rows:
            self._num_tokens[layer, row] = self.num_tokens(layer, row) + 1
        return found

    def ask(
        self, layer: int, rows: Sequence[int], query: Tensor, scale: float, tokens: NewTokens | None = None
    ) -> Asked:
        """Have the drives attend for ``rows``, queries [rows, heads, head_dim], and append one of ``tokens`` first."""
        starts = [self.num_tokens(layer, row) for row in rows]
        factor = scale * query.shape[-1] ** 0.5
        query = query if factor == 1 else query * factor
        return self._drives.ask(layer, [self._numbers[row] for row in rows], starts, query, tokens)

    def close(self) -> None:
        """See DriveRows."""
        numbers, self._numbers[:] = list(self._numbers), []
        self._num_tokens.clear()
        self._drives.forget(numbers)

    def abandon(self) -> None:
        """See DriveRows, and KVDrives."""
        if self._numbers:
            self._drives.abandon(list(self._numbers))
