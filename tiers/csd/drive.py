"""A computing drive as the host sees it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

import numpy as np

from tiers.csd.commands import (
    Attend,
    Attended,
    Command,
    Completion,
    Config,
    Configured,
    DriveHealth,
    DriveIdentity,
    Health,
    Identify,
    Inspect,
    ReadKV,
    Reclaim,
    Reclaimed,
    SequenceState,
    TokensRead,
    WriteKV,
    Written,
)
from tiers.csd.drive_process import DriveProcess
from tiers.csd.geometry import FlashGeometry
from tiers.csd.host_codec import decode_completion, encode
from tiers.csd.host_queue import HostQueue, Reply, Ticket
from tiers.csd.pending import Pending
from tiers.csd.queue_memory import QueueMemory
from tiers.csd.timing import DriveTiming, DriveWork
from tiers.csd.traffic import LinkTraffic
from tiers.csd.wire import Encoded, Opcode
from tiers.errors import InvalidOptionError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """Commands and bytes (of data and replies) that can be under way, and how long the drive may take for a command."""

    depth: int = 64
    data_nbytes: int = 32 * 2**20
    timeout_s: float = 120.0

    def __post_init__(self) -> None:
        if self.depth < 1 or self.data_nbytes < 2**20 or self.timeout_s <= 0:
            raise InvalidOptionError(f"queue of a drive: {self}; a command, 1 MiB and some time are the least")


class ComputationalDrive:
    """An emulated drive in a process of its own. For one thread; close it, or use it in a ``with``.

    ``modelled_s`` sums what ``timing`` says of the commands that were waited for, if a timing was given. Commands are
    carried out in the order in which they are submitted; several can be under way. A call that raises DeviceGoneError
    does so within a second of the death of the drive's process, and every call after it at once.
    """

    def __init__(
        self,
        image: Path,
        geometry: FlashGeometry | None = None,
        *,
        name: str = "csd",
        keep: bool = False,
        timing: DriveTiming | None = None,
        queue: QueueOptions | None = None,
        device: "torch.device | str | None" = None,
    ) -> None:
        """Start the drive on ``image``: a new file, which has no name from then on; with ``keep``, one that stays.

        Commands may bring tensors of ``device`` in the place of arrays, see ``as_array``, and are answered in tensors.
        Raises InvalidOptionError, TierBusyError, DiskFullError, DeviceGoneError.
        """
        self.name = name
        self.device = device
        self.geometry = geometry or FlashGeometry()
        self.modelled_s = 0.0
        self._timing = timing
        self._options = queue or QueueOptions()
        self._configs: dict[int, Config] = {}

        def start(memory: QueueMemory) -> DriveProcess:
            return DriveProcess(
                name=name,
                image=image,
                geometry=self.geometry,
                keep=keep,
                queue=memory,
                data_nbytes=self._options.data_nbytes,
                traces=timing is not None,
            )

        self._queue = HostQueue(
            start,
            depth=self._options.depth,
            data_nbytes=self._options.data_nbytes,
            timeout_s=self._options.timeout_s,
            device=device,
        )

    @property
    def pid(self) -> int:
        """Of the drive's process."""
        return self._queue.process.pid

    @property
    def note(self) -> str:
        """Why tensors of a device go through a buffer of its driver, in one line; "" where they do not."""
        return self._queue.path.note

    @property
    def traffic(self) -> dict[Opcode, LinkTraffic]:
        """What went over the link, by kind of command."""
        return self._queue.traffic

    def configure(self, config: Config) -> Configured:
        """Start a task. Raises InvalidOptionError, as do all commands for what makes no sense."""
        config.shape(self.geometry)  # what is wrong is said without the drive
        answer = cast("Configured", self._submit(config).wait())
        self._configs[config.task] = config
        return answer

    def adopt(self, config: Config) -> None:
        """A task that the drive knows already, because its image was kept."""
        self._configs[config.task] = config

    def write_kv(self, command: WriteKV) -> Pending[Written]:
        """Send tokens, in as many commands as the queue needs, and do not wait for them to be written.

        Waiting raises what stopped them first, and what the drive then holds is said by ``inspect``.
        """
        pieces = [self._submit(piece) for piece in self._pieces(command)]
        return Pending(lambda: cast("Written", [piece.wait() for piece in pieces][-1]))

    def attend(self, command: Attend) -> Pending[Attended]:
        """Append the new tokens and attend; ``Pending.wait`` gives the output.

        Waiting raises TokensLostError, DriveFullError, CorruptBlockError, TransferError, DeviceGoneError.
        """
        return cast("Pending[Attended]", self._submit(command))

    def read_kv(self, command: ReadKV) -> Pending[TokensRead]:
        """Ask for tokens back, in as many commands as the queue needs; raises as ``attend`` does."""
        config = self._configs.get(command.task)
        nbytes = 1 if config is None else 2 * config.kv_heads * config.head_dim * np.dtype(config.dtype).itemsize
        step, end = max(1, self._options.data_nbytes // 4 // nbytes), command.start + command.num_tokens
        pieces = [
            cast(
                "Pending[TokensRead]",
                self._submit(ReadKV(command.task, command.sequence, command.layer, first, min(step, end - first))),
            )
            for first in range(command.start, end, step)
        ]

        def join() -> TokensRead:
            found = [piece.wait() for piece in pieces]
            if len(found) == 1:
                return found[0]
            keys, values = zip(*((part.keys, part.values) for part in found), strict=True)
            return TokensRead(np.concatenate(keys, 1), np.concatenate(values, 1))

        return Pending(join)

    def reclaim(self, command: Reclaim) -> Reclaimed:
        """Sequences are finished."""
        return cast("Reclaimed", self._submit(command).wait())

    def identify(self) -> DriveIdentity:
        """What kind of drive it is."""
        return cast("DriveIdentity", self._submit(Identify()).wait())

    def health(self) -> DriveHealth:
        """How it is."""
        return cast("DriveHealth", self._submit(Health()).wait())

    def inspect(self, task: int, sequence: int) -> SequenceState:
        """What it holds of a sequence."""
        return cast("SequenceState", self._submit(Inspect(task, sequence)).wait())

    def close(self) -> None:
        """End the drive's process. Closing twice does nothing."""
        self._queue.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self, command: Command) -> Pending[Completion]:
        config = self._configs.get(command.task) if isinstance(command, WriteKV | Attend | ReadKV) else None
        encoded = encode(command, config, wants_trace=self._timing is not None)
        ticket = self._queue.submit(encoded)
        return Pending(lambda: self._finish(command, config, encoded, ticket))

    def _finish(self, command: Command, config: Config | None, encoded: Encoded, ticket: Ticket) -> Completion:
        reply = self._queue.wait(ticket)
        if self._timing is not None and config is not None:
            self.modelled_s += self._seconds_of(command, config, encoded, reply)
        return decode_completion(command, config, reply.header, reply.data)

    def _seconds_of(self, command: Command, config: Config, encoded: Encoded, reply: Reply) -> float:
        """Of a command that carries tokens."""
        assert self._timing is not None
        num_tokens = _attended(command) if isinstance(command, Attend) else (encoded.count,)
        nbytes = reply.header.reply_nbytes
        work = DriveWork(config, self.geometry, num_tokens, encoded.data_nbytes, nbytes, reply.trace)
        match command:
            case Attend():
                return self._timing.attend_s(work)
            case WriteKV():
                return self._timing.write_s(work)
            case _:
                return self._timing.read_s(work)

    def _pieces(self, command: WriteKV) -> Iterator[WriteKV]:
        """Up to a quarter of the queue at a time, so that the next tokens are on their way meanwhile.

        A power of two of spans: pages that an engine asks for in one call then lie in one piece, and are not gathered.
        """
        config = self._configs.get(command.task)
        if config is None or command.keys.ndim != 3 or command.keys.shape != command.values.shape:
            yield command  # and is refused with the reason
            return
        shape = config.shape(self.geometry)
        token_nbytes = 2 * shape.kv_heads * shape.head_dim * np.dtype(config.dtype).itemsize
        most = max(1, self._options.data_nbytes // 4 // token_nbytes)
        spans = most // shape.tokens_per_span
        step = shape.tokens_per_span << (spans.bit_length() - 1) if spans else most
        for first in range(0, max(1, command.keys.shape[1]), step):
            keys, values = command.keys[:, first : first + step], command.values[:, first : first + step]
            yield WriteKV(command.task, command.sequence, command.layer, command.start + first, keys, values)


def _attended(command: Attend) -> tuple[int, ...]:
    new = 0 if command.keys is None else 1
    return tuple((command.starts + new).tolist())
