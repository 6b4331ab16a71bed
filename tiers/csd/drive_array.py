"""Several computing drives as one: the heads of every layer are split across them."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tiers.csd.commands import Attend, Attended, Config, DriveHealth, ReadKV, Reclaim, TokensRead, WriteKV, Written
from tiers.csd.drive import ComputationalDrive, Pending
from tiers.csd.traffic import LinkTraffic
from tiers.csd.wire import Opcode
from tiers.errors import InvalidOptionError


class DriveArray:
    """Each drive holds some KV heads of every layer and attends for the query heads that share them.

    Commands are those of one drive; each drive is sent its part before any is waited for. Methods raise as those of
    ComputationalDrive do. Close it, or use it in a ``with``.
    """

    def __init__(self, drives: Sequence[ComputationalDrive]) -> None:
        """Takes the drives over."""
        self.drives = tuple(drives)
        self._kv_heads: dict[int, list[slice]] = {}
        self._heads: dict[int, list[slice]] = {}

    @property
    def capacity_nbytes(self) -> int:
        """Of the flash of all drives."""
        return sum(drive.geometry.capacity_nbytes for drive in self.drives)

    @property
    def modelled_s(self) -> float:
        """Of the slowest drive, since they work side by side."""
        return max(drive.modelled_s for drive in self.drives)

    @property
    def traffic(self) -> dict[Opcode, LinkTraffic]:
        """What went over all links, by kind of command."""
        total = {opcode: LinkTraffic() for opcode in Opcode}
        for drive in self.drives:
            for opcode, traffic in drive.traffic.items():
                total[opcode].add(traffic)
        return total

    def configure(self, config: Config) -> None:
        """Start a task in all drives. InvalidOptionError where there are more drives than KV heads."""
        if config.kv_heads < len(self.drives):
            raise InvalidOptionError(
                f"{len(self.drives)} drives for {config.kv_heads} KV heads: each has to have one; ask for fewer drives"
            )
        bounds = [config.kv_heads * i // len(self.drives) for i in range(len(self.drives) + 1)]
        parts = [slice(*pair) for pair in itertools.pairwise(bounds)]
        each = config.heads_per_kv
        self._kv_heads[config.task] = parts
        self._heads[config.task] = [slice(part.start * each, part.stop * each) for part in parts]
        for drive, part in zip(self.drives, parts, strict=True):
            drive.configure(replace(config, kv_heads=part.stop - part.start))

    def write_kv(self, command: WriteKV) -> Pending[Written]:
        """Send tokens, and do not wait for them to be written; the answer is that of the first drive."""
        pending = [
            drive.write_kv(replace(command, keys=command.keys[part], values=command.values[part]))
            for drive, part in zip(self.drives, self._parts(command.task), strict=True)
        ]

        def wait() -> Written:
            answers = [one.wait() for one in pending]
            return answers[0]

        return Pending(wait)

    def attend(self, command: Attend) -> Attended:
        """Append the new tokens and attend, in all drives at the same time."""
        pending = [
            drive.attend(
                replace(
                    command,
                    query=command.query[:, heads],
                    keys=None if command.keys is None else command.keys[:, part],
                    values=None if command.values is None else command.values[:, part],
                )
            )
            for drive, part, heads in zip(
                self.drives, self._parts(command.task), self._heads[command.task], strict=True
            )
        ]
        answers = [one.wait() for one in pending]
        if len(answers) == 1:
            return answers[0]
        outputs, sums = ([getattr(one, name) for one in answers] for name in ("output", "logsumexp"))
        return Attended(np.concatenate(outputs, 1), np.concatenate(sums, 1))

    def read_kv(self, command: ReadKV) -> TokensRead:
        """Tokens, of all heads."""
        answers = [one.wait() for one in [drive.read_kv(command) for drive in self.drives]]
        if len(answers) == 1:
            return answers[0]
        keys, values = ([getattr(one, name) for one in answers] for name in ("keys", "values"))
        return TokensRead(np.concatenate(keys), np.concatenate(values))

    def reclaim(self, command: Reclaim) -> None:
        """Sequences are finished."""
        for drive in self.drives:
            drive.reclaim(command)

    def health(self) -> list[DriveHealth]:
        """How each drive is."""
        return [drive.health() for drive in self.drives]

    def close(self) -> None:
        """End all drives. Closing twice does nothing."""
        for drive in self.drives:
            drive.close()

    def _parts(self, task: int) -> list[slice]:
        if task not in self._kv_heads:
            raise InvalidOptionError(f"task {task} is not configured; send its configuration first")
        return self._kv_heads[task]
