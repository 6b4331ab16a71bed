"""Newest tokens wait in the host, which attends to them while drives attend to the others (HILOS, ASPLOS 2026).

A token of one head is a fraction of a flash page. Drives that get tokens one by one are busy with small writes; here
they get them when there are enough to fill pages, and until then the answers of both are merged by their logsumexp.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from offload.attention.partial import PartialAttention, merge
from offload.kv.drive_rows import DriveSequences
from offload.kv.drives import KVDrives
from offload.kv.host_room import HostRoom
from offload.kv.newest_tokens import NewestTokens


@dataclass(frozen=True, slots=True, eq=False)
class InHost:
    """The host holds the newest tokens of every row, fewer than ``group_tokens``, in ``room``."""

    group_tokens: int
    room: HostRoom

    def rows(self, drives: KVDrives) -> "DelayedWrites":
        """Of a new cache."""
        return DelayedWrites(DriveSequences(drives), self.group_tokens, self.room)


class DelayedWrites:
    """Rows whose tokens reach the drives ``group_tokens`` at a time, at multiples of that; the rest is in the host.

    Where ``room`` has no memory for a layer, its tokens go to the drives one by one, each with its query.
    """

    def __init__(self, drives: DriveSequences, group_tokens: int, room: HostRoom) -> None:
        self._drives = drives
        self._group_tokens = group_tokens
        self._room = room
        self._newest: dict[int, NewestTokens] = {}
        """By layer."""

    def open(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """See DriveRows."""
        self._drives.open(layer, keys, values)
        newest = NewestTokens(self._group_tokens, keys, values)
        if self._room.take(newest.nbytes):
            self._newest[layer] = newest

    def num_tokens(self, layer: int, row: int) -> int:
        """See DriveRows."""
        newest = self._newest.get(layer)
        return self._drives.num_tokens(layer, row) + (newest.num_tokens(row) if newest else 0)

    def write(self, layer: int, row: int, keys: Tensor, values: Tensor) -> None:
        """See DriveRows."""
        newest = self._newest.get(layer)
        if newest is None:
            self._drives.write(layer, row, keys, values)
            return
        stay = (newest.num_tokens(row) + keys.shape[0]) % self._group_tokens
        go = keys.shape[0] - stay
        if go > 0:
            held = newest.read(row)
            self._drives.write(layer, row, *_joined(held, (keys[:go], values[:go])))
            newest.clear(row)
            keys, values = keys[go:], values[go:]
        newest.append(row, keys, values)

    def read(self, layer: int, row: int) -> tuple[Tensor, Tensor]:
        """See DriveRows."""
        newest = self._newest.get(layer)
        if newest is None:
            return self._drives.read(layer, row)
        if not self._drives.num_tokens(layer, row):
            return newest.read(row)
        return _joined(newest.read(row), self._drives.read(layer, row), is_after=True)

    def attend(self, layer: int, query: Tensor, keys: Tensor, values: Tensor, scale: float) -> PartialAttention:
        """See DriveRows. The drives are asked first and attend meanwhile."""
        newest = self._newest.get(layer)
        if newest is None:
            return self._drives.attend(layer, query, keys, values, scale)
        rows = [row for row in range(query.shape[0]) if self._drives.num_tokens(layer, row)]
        asked = self._drives.ask(layer, rows, query[rows], scale) if rows else None
        newest.append_to_all(keys, values)
        found = newest.attend(query.to(device="cpu"), scale)
        if asked is not None:
            found = _merged(found, rows, asked.wait())
        for row in range(query.shape[0]):
            if newest.num_tokens(row) == self._group_tokens:
                self._drives.write(layer, row, *newest.read(row))
                newest.clear(row)
        return found

    def close(self) -> None:
        """See DriveRows."""
        self._forget()
        self._drives.close()

    def abandon(self) -> None:
        """See DriveRows."""
        self._forget()
        self._drives.abandon()

    def _forget(self) -> None:
        while self._newest:
            self._room.give_back(self._newest.popitem()[1].nbytes)


def _joined(
    newest: tuple[Tensor, Tensor], others: tuple[Tensor, Tensor], *, is_after: bool = False
) -> tuple[Tensor, Tensor]:
    """Keys and values side by side, in the type and memory of the newest ones, which are the last if ``is_after``."""
    pairs = ((new, other.to(new)) for new, other in zip(newest, others, strict=True))
    keys, values = (torch.cat((other, new) if is_after else (new, other)) for new, other in pairs)
    return keys, values


def _merged(newest: PartialAttention, rows: list[int], older: PartialAttention) -> PartialAttention:
    """``newest`` of all rows with ``older`` of some of them."""
    if len(rows) == newest.output.shape[0]:
        return merge([newest, older])
    both = merge([PartialAttention(newest.output[rows], newest.logsumexp[rows]), older])
    newest.output[rows], newest.logsumexp[rows] = both.output, both.logsumexp
    return newest
