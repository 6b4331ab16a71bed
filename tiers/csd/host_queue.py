"""The host's side of the queue: submit commands, and wait for what they were answered."""

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from tiers.csd.doorbell import PeerGoneError, PeerSilentError
from tiers.csd.drive_process import DriveProcess
from tiers.csd.failure import Status, rebuild
from tiers.csd.queue_memory import Arena, QueueMemory
from tiers.csd.queue_path import DevicePath, HostPath, QueuePath, on_device
from tiers.csd.trace import Trace
from tiers.csd.traffic import LinkTraffic
from tiers.csd.wire import COMPLETION, SUBMISSION, CompletionHeader, Encoded, Opcode, Submission
from tiers.errors import DeviceGoneError, InvalidOptionError

if TYPE_CHECKING:
    import torch

_TAGS = 1 << 16


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: a header, the bytes it points to, and what the flash did if that was asked for."""

    header: CompletionHeader
    data: "bytearray | torch.Tensor"
    trace: Trace


@dataclass(slots=True, eq=False)
class Ticket:
    """A command under way. ``reply`` or ``error`` is there when it is done."""

    opcode: Opcode
    reply_offset: int
    is_of_device: bool = False
    """Whether the answer is to be in the device's memory, from where the command came."""
    reply: Reply | None = None
    error: Exception | None = None

    @property
    def is_done(self) -> bool:
        return self.reply is not None or self.error is not None


@dataclass(slots=True)
class _State:
    num_submitted: int = 0
    num_completed: int = 0
    under_way: deque[Ticket] = field(default_factory=deque)
    gone: DeviceGoneError | None = None


class HostQueue:
    """For one thread. After the drive's process died, every call raises DeviceGoneError, and none waits."""

    def __init__(
        self,
        start: Callable[[QueueMemory], DriveProcess],
        *,
        depth: int,
        data_nbytes: int,
        timeout_s: float,
        device: "torch.device | str | None" = None,
    ) -> None:
        """``start`` starts the process that serves the queue. The drive has ``timeout_s`` for each command.

        With ``device`` commands may have tensors of it in the place of arrays; the answer is a tensor then.
        """
        self.traffic = {opcode: LinkTraffic() for opcode in Opcode}
        self._memory = QueueMemory.create(depth, data_nbytes)
        self._arena = Arena(data_nbytes)
        self._host_path = HostPath()
        self.path: QueuePath = self._host_path
        self._timeout_s = timeout_s
        self._state = _State()
        try:
            if device is not None:
                self.path = DevicePath(self._memory.data, device)
            self.process = start(self._memory)
        except BaseException:
            self.path.close()
            self._memory.close()
            raise

    def submit(self, command: Encoded) -> Ticket:
        """Send a command; waits for others to be done where the queue is full. Raises DeviceGoneError."""
        state = self._state
        if state.gone is not None:
            raise state.gone
        while len(state.under_way) == self._memory.depth:
            self._complete_next()
        offset = self._take(command.data_nbytes + command.reply_nbytes)
        end = offset + command.data_nbytes
        try:
            self.path.put(command.parts, self._memory.data[offset:end])
        except BaseException:  # a copy may need memory that is not there
            self._arena.take_back()
            raise
        tag = state.num_submitted % _TAGS
        self._memory.put_submission(
            state.num_submitted,
            Submission(
                opcode=command.opcode,
                flags=command.flags,
                tag=tag,
                num_items=command.count,
                address=command.address,
                start=command.start,
                unused=0,
                data_offset=offset,
                data_nbytes=command.data_nbytes,
                reply_offset=end,
                reply_nbytes=command.reply_nbytes,
            ),
        )
        ticket = Ticket(command.opcode, end, any(on_device(part) for part in command.parts))
        state.under_way.append(ticket)
        state.num_submitted += 1
        traffic = self.traffic[command.opcode]
        traffic.commands += 1
        traffic.header_nbytes += SUBMISSION.size + command.descriptor_nbytes
        traffic.sent_nbytes += command.data_nbytes - command.descriptor_nbytes
        try:
            self.process.doorbell.ring()
        except PeerGoneError:
            raise self._lose("died") from None
        return ticket

    def wait(self, ticket: Ticket) -> Reply:
        """Wait until it is done; raises what the drive raised, DeviceGoneError, or what befell the answer."""
        while not ticket.is_done:
            self._complete_next()
        if ticket.error is not None:
            raise ticket.error
        assert ticket.reply is not None
        return ticket.reply

    def close(self) -> None:
        """Let the drive end. What is under way is not waited for. Closing twice does nothing."""
        self.process.end()
        if self._state.gone is None:
            closed = DeviceGoneError(f"tier '{self.process.name}': the drive is closed", tier=self.process.name)
            self._fail_all(closed)
        self.path.close()
        self._memory.close()

    def _take(self, nbytes: int) -> int:
        if nbytes > self._arena.nbytes:
            raise InvalidOptionError(
                f"a command of {nbytes:,} bytes does not fit into the drive's queue of {self._arena.nbytes:,}; "
                "split it or give the queue more memory"
            )
        while (offset := self._arena.take(nbytes)) is None:
            self._complete_next()
        return offset

    def _complete_next(self) -> None:
        """Wait for the oldest command. Commands are done in the order in which they were submitted."""
        state = self._state
        if state.gone is not None:
            raise state.gone
        try:
            trace = self.process.doorbell.hear(self._timeout_s)
        except PeerGoneError:
            raise self._lose("died") from None
        except PeerSilentError:
            raise self._lose(f"did not answer within {self._timeout_s:g} s and was ended") from None
        header = self._memory.completion(state.num_completed)
        ticket = state.under_way.popleft()
        is_ok = header.status == Status.OK
        assert header.tag == state.num_completed % _TAGS, "completions come in order"
        traffic = self.traffic[ticket.opcode]
        traffic.header_nbytes += COMPLETION.size
        traffic.received_nbytes += header.reply_nbytes
        path = self.path if ticket.is_of_device and is_ok and header.reply_nbytes else self._host_path
        try:
            data = path.take(self._memory.data[ticket.reply_offset : ticket.reply_offset + header.reply_nbytes])
        except Exception as error:  # noqa: BLE001 - whatever it is, no other command may hear of it
            ticket.error = error
            return
        finally:  # or else all later answers go to the wrong commands
            self._arena.give_back()
            state.num_completed += 1
        if is_ok:
            ticket.reply = Reply(header, data, Trace.unpack(trace))
        else:
            ticket.error = rebuild(Status(header.status), json.loads(cast("bytearray", data)))

    def _lose(self, what: str) -> DeviceGoneError:
        error = self.process.gone(what)
        self._fail_all(error)
        return error

    def _fail_all(self, error: DeviceGoneError) -> None:
        """Whatever is under way will not be done any more."""
        self._state.gone = error
        for ticket in self._state.under_way:
            ticket.error = error
        self._state.under_way.clear()
