"""Several drives that share the heads of a model: each has all tokens of some KV heads (InstAttention, section V)."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import accumulate, pairwise
from types import TracebackType
from typing import Self

import numpy as np

from tiers.csd.commands import (
    Attend,
    Attended,
    Config,
    Configured,
    DriveHealth,
    ReadKV,
    Reclaim,
    Reclaimed,
    SequenceState,
    TokensRead,
    WriteKV,
    Written,
)
from tiers.csd.drive import ComputationalDrive
from tiers.csd.pending import Answer, Pending
from tiers.csd.queue_path import side_by_side
from tiers.csd.traffic import LinkTraffic
from tiers.csd.wire import Opcode
from tiers.errors import InvalidOptionError


class DriveArray:
    """Drives as one: commands are cut along the heads, carried out side by side, and answers put together.

    The drives fail one by one. After an Attend or a WriteKV that raised, some may hold tokens that others refused:
    ``inspect`` gives what all hold, and the sequences of that command are to be reclaimed before they are used again.
    """

    def __init__(self, drives: Sequence[ComputationalDrive], name: str = "csd") -> None:
        """Takes the drives over: ``close`` closes them. There is one at least."""
        assert drives, "an array of no drives"
        self.name = name
        self.drives = tuple(drives)
        self.modelled_s = 0.0
        self._kv_heads: dict[int, list[slice]] = {}
        self._query_heads: dict[int, list[slice]] = {}

    @property
    def capacity_nbytes(self) -> int:
        """Of the flash of all drives."""
        return sum(drive.geometry.capacity_nbytes for drive in self.drives)

    @property
    def notes(self) -> list[str]:
        """What is slower than it could be on the way to a drive and why, one line each."""
        return list(dict.fromkeys(f"{self.name}: {drive.note}" for drive in self.drives if drive.note))

    @property
    def traffic(self) -> dict[Opcode, LinkTraffic]:
        """What went over all links, by kind of command."""
        total = {opcode: LinkTraffic() for opcode in Opcode}
        for drive in self.drives:
            for opcode, traffic in drive.traffic.items():
                total[opcode].add(traffic)
        return total

    def configure(self, config: Config) -> Configured:
        """Start a task. Raises InvalidOptionError, also where there are more drives than KV heads."""
        counts = _shares(config.kv_heads, len(self.drives))
        starts = [0, *accumulate(counts)]
        answers = [
            drive.configure(replace(config, kv_heads=count)) for drive, count in zip(self.drives, counts, strict=True)
        ]
        self._kv_heads[config.task] = [slice(*pair) for pair in pairwise(starts)]
        per_kv = config.heads_per_kv
        self._query_heads[config.task] = [slice(first * per_kv, last * per_kv) for first, last in pairwise(starts)]
        return answers[0]

    def write_kv(self, command: WriteKV) -> Pending[Written]:
        """As that of one drive; ``Written`` counts what all of them hold."""
        pending = [
            drive.write_kv(replace(command, keys=command.keys[heads], values=command.values[heads]))
            for drive, heads in zip(self.drives, self._shares_of(self._kv_heads, command.task), strict=True)
        ]

        def finish() -> Written:
            answers = self._together(pending)
            return Written(min(one.num_tokens for one in answers), min(one.num_flushed for one in answers))

        return Pending(finish)

    def attend(self, command: Attend) -> Pending[Attended]:
        """As that of one drive."""
        shares = zip(
            self.drives,
            self._shares_of(self._kv_heads, command.task),
            self._shares_of(self._query_heads, command.task),
            strict=True,
        )
        pending = [
            drive.attend(
                replace(
                    command,
                    query=command.query[:, query_heads],
                    keys=None if command.keys is None else command.keys[:, kv_heads],
                    values=None if command.values is None else command.values[:, kv_heads],
                )
            )
            for drive, kv_heads, query_heads in shares
        ]

        def finish() -> Attended:
            answers = self._together(pending)
            output = side_by_side([one.output for one in answers], 1)
            return Attended(output, side_by_side([one.logsumexp for one in answers], 1))

        return Pending(finish)

    def read_kv(self, command: ReadKV) -> Pending[TokensRead]:
        """As that of one drive."""
        pending = [drive.read_kv(command) for drive in self.drives]

        def finish() -> TokensRead:
            answers = self._together(pending)
            keys = np.concatenate([one.keys for one in answers])
            return TokensRead(keys, np.concatenate([one.values for one in answers]))

        return Pending(finish)

    def reclaim(self, command: Reclaim) -> Reclaimed:
        """Pages of all drives."""
        return Reclaimed(sum(drive.reclaim(command).num_pages for drive in self.drives))

    def inspect(self, task: int, sequence: int) -> SequenceState:
        """The tokens that every drive holds."""
        states = [drive.inspect(task, sequence) for drive in self.drives]
        return SequenceState(
            tuple(map(min, zip(*(state.num_tokens for state in states), strict=True))),
            tuple(map(min, zip(*(state.num_flushed for state in states), strict=True))),
        )

    def health(self) -> list[DriveHealth]:
        """Drive by drive."""
        return [drive.health() for drive in self.drives]

    def close(self) -> None:
        """Close all, whatever happens to some. Closing twice does nothing."""
        with ExitStack() as stack:
            for drive in self.drives:
                stack.callback(drive.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _together(self, pending: Sequence[Pending[Answer]]) -> list[Answer]:
        """Wait for all of them, also after one has failed; the time that counts is that of the slowest."""
        before = [drive.modelled_s for drive in self.drives]
        with ExitStack() as stack:
            for one in pending[1:]:
                stack.callback(one.wait)
            pending[0].wait()
        self.modelled_s += max(drive.modelled_s - then for drive, then in zip(self.drives, before, strict=True))
        return [one.wait() for one in pending]

    def _shares_of(self, shares: dict[int, list[slice]], task: int) -> list[slice]:
        if task not in shares:
            raise InvalidOptionError(f"task {task} is not configured; send its configuration first")
        return shares[task]


def _shares(kv_heads: int, num_drives: int) -> list[int]:
    """KV heads of each drive, as even as they come."""
    if kv_heads < num_drives:
        raise InvalidOptionError(
            f"{kv_heads} KV heads cannot be split over {num_drives} drives; use at most {kv_heads} of them"
        )
    return [kv_heads // num_drives + (index < kv_heads % num_drives) for index in range(num_drives)]
