"""Short messages between host and drive: "a header is there", and to the host what is not of the link."""

import select
import socket
import struct
import time

_LENGTH = struct.Struct("<I")


class PeerGoneError(Exception):
    """The other side closed its end, or its process ended."""


class PeerSilentError(Exception):
    """The other side did not say anything in time."""


class Doorbell:
    """One end. Raises PeerGoneError wherever the other end is closed."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        end.setblocking(True)

    def ring(self) -> None:
        """Tell the drive of one more submission."""
        self._send(b"\x01")

    def rings(self, timeout_s: float) -> int:
        """How many submissions came since the last call; waits for one, but not longer than ``timeout_s``."""
        if not self._is_readable(timeout_s):
            return 0
        return len(self._receive(4096))

    def tell(self, message: bytes) -> None:
        """Tell the host of a completion, with what goes with it."""
        self._send(_LENGTH.pack(len(message)) + message)

    def hear(self, timeout_s: float) -> bytes:
        """The next message to the host; raises PeerSilentError."""
        deadline = time.monotonic() + timeout_s
        (length,) = _LENGTH.unpack(self._receive_all(_LENGTH.size, deadline))
        return self._receive_all(length, deadline)

    def close(self) -> None:
        """The other end learns of it."""
        self._end.close()

    def _receive_all(self, nbytes: int, deadline: float) -> bytes:
        parts = []
        while nbytes:
            if not self._is_readable(deadline - time.monotonic()):
                raise PeerSilentError
            part = self._receive(nbytes)
            parts.append(part)
            nbytes -= len(part)
        return b"".join(parts)

    def _is_readable(self, timeout_s: float) -> bool:
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        return bool(poll.poll(max(0.0, timeout_s) * 1000))

    def _receive(self, most: int) -> bytes:
        try:
            part = self._end.recv(most)
        except OSError as error:
            raise PeerGoneError from error
        if not part:
            raise PeerGoneError
        return part

    def _send(self, message: bytes) -> None:
        try:
            self._end.sendall(message)
        except OSError as error:
            raise PeerGoneError from error
