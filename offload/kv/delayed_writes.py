"""Newest tokens wait in the host, which attends to them while drives attend to the others (HILOS, ASPLOS 2026).

A token of one head is a fraction of a flash page. Drives that get tokens one by one are busy with small writes; here
they get them when there are enough to fill pages, and until then the answers of both are merged by their logsumexp.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from offload.attention.partial import PartialAttention, merge_some
from offload.kv.drive_rows import DriveRows, DriveSequences
from offload.kv.drives import KVDrives
from offload.kv.host_room import HostRoom
from offload.kv.input_rows import InputCache
from offload.kv.new_tokens import NewTokens, joined
from offload.kv.newest_tokens import NewestTokens, newest_nbytes


class GroupStore(DriveRows, Protocol):
    """Where groups go: ``DriveSequences``, or what is made of them."""

    def ask(self, layer: int, rows: Sequence[int], query: Tensor, scale: float) -> "Asking":
        """Begin to attend for ``rows``, whose queries are [rows, heads, head_dim]; all of them have tokens."""
        ...


class Asking(Protocol):
    """An answer on its way."""

    def wait(self) -> PartialAttention:
        """Output [rows, heads, head_dim] and logsumexp [rows, heads]."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class InHost:
    """The host holds the newest tokens of every row, fewer than ``group_tokens``, in ``room``.

    With ``inputs`` a share of the groups is stored as what it is made of.
    """

    group_tokens: int
    room: HostRoom
    inputs: InputCache | None = None

    def rows(self, drives: KVDrives) -> "DelayedWrites":
        """Of a new cache."""
        groups = DriveSequences(drives)
        store: GroupStore = groups if self.inputs is None else self.inputs.rows(groups)
        return DelayedWrites(store, self.group_tokens, self.room)


class DelayedWrites:
    """Rows whose tokens reach ``groups`` so many at a time, at multiples of ``group_tokens``; the rest is in the host.

    Where ``room`` has no memory for a layer, its tokens go on one by one, each with its query.
    """

    def __init__(self, groups: GroupStore, group_tokens: int, room: HostRoom) -> None:
        self._groups = groups
        self._group_tokens = group_tokens
        self._room = room
        self._newest: dict[int, NewestTokens] = {}
        """By layer."""

    def open(self, layer: int, keys: Tensor, values: Tensor, inputs: Tensor | None = None) -> None:
        """See DriveRows."""
        self._groups.open(layer, keys, values, inputs)
        if self._room.take(newest_nbytes(self._group_tokens, keys, values, inputs)):
            self._newest[layer] = NewestTokens(self._group_tokens, keys, values, inputs)

    def num_tokens(self, layer: int, row: int) -> int:
        """See DriveRows."""
        newest = self._newest.get(layer)
        return self._groups.num_tokens(layer, row) + (newest.num_tokens(row) if newest else 0)

    def write(self, layer: int, row: int, tokens: NewTokens) -> None:
        """See DriveRows."""
        newest = self._newest.get(layer)
        if newest is None:
            self._groups.write(layer, row, tokens)
            return
        stay = (newest.num_tokens(row) + len(tokens)) % self._group_tokens
        go = len(tokens) - stay
        if go > 0:
            held = newest.read(row)
            self._groups.write(layer, row, joined([held.like(tokens), tokens[:go]]) if len(held) else tokens[:go])
            newest.clear(row)
            tokens = tokens[go:]
        newest.append(row, tokens)

    def read(self, layer: int, row: int) -> tuple[Tensor, Tensor]:
        """See DriveRows."""
        newest = self._newest.get(layer)
        if newest is None:
            return self._groups.read(layer, row)
        held = newest.read(row)
        if not self._groups.num_tokens(layer, row):
            return held.keys, held.values
        older = NewTokens(*self._groups.read(layer, row)).like(held)
        both = joined([older, NewTokens(held.keys, held.values)])
        return both.keys, both.values

    def attend(self, layer: int, query: Tensor, tokens: NewTokens, scale: float) -> PartialAttention:
        """See DriveRows. The drives are asked first and attend meanwhile."""
        newest = self._newest.get(layer)
        if newest is None:
            return self._groups.attend(layer, query, tokens, scale)
        rows = [row for row in range(query.shape[0]) if self._groups.num_tokens(layer, row)]
        asked = self._groups.ask(layer, rows, query[rows], scale) if rows else None
        for row in range(query.shape[0]):
            newest.append(row, tokens[row : row + 1])
        found = newest.attend(query.to("cpu"), scale)
        if asked is not None:
            found = merge_some(found, rows, asked.wait().to("cpu"))
        for row in range(query.shape[0]):
            if newest.num_tokens(row) == self._group_tokens:
                self._groups.write(layer, row, newest.read(row))
                newest.clear(row)
        return found

    def close(self) -> None:
        """See DriveRows."""
        self._forget()
        self._groups.close()

    def abandon(self) -> None:
        """See DriveRows."""
        self._forget()
        self._groups.abandon()

    def _forget(self) -> None:
        while self._newest:
            self._room.give_back(self._newest.popitem()[1].nbytes)
