"""Short messages between host and drive: "a header is there", and to the host what is not of the link."""

import select
import socket
import struct
import time

_LENGTH = struct.Struct("<I")
_MOST_NBYTES = 1 << 16


class PeerGoneError(Exception):
    """The other side closed its end, or its process ended."""


class PeerSilentError(Exception):
    """The other side did not say anything in time."""


class Doorbell:
    """One end. Raises PeerGoneError wherever the other end is closed."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._heard = bytearray()
        self._poll = select.poll()
        self._poll.register(end, select.POLLIN)

    def ring(self) -> None:
        """Tell the drive of one more submission."""
        self._send(b"\x01")

    def rings(self, timeout_s: float) -> int:
        """How many submissions came since the last call; waits for one, but not longer than ``timeout_s``."""
        if not self._is_readable(timeout_s):
            return 0
        return len(self._receive(_MOST_NBYTES))

    def tell(self, message: bytes) -> None:
        """Tell the host of a completion, with what goes with it."""
        self._send(_LENGTH.pack(len(message)) + message)

    def hear(self, timeout_s: float) -> bytes:
        """The next message to the host; raises PeerSilentError.

        What has come of it so far is kept, so that an interrupted wait can be taken up again.
        """
        deadline = time.monotonic() + timeout_s
        while (message := self._first_message()) is None:
            if not self._is_readable(deadline - time.monotonic()):
                raise PeerSilentError
            self._heard += self._receive(_MOST_NBYTES)
        return message

    def close(self) -> None:
        """The other end learns of it."""
        self._end.close()

    def _first_message(self) -> bytes | None:
        if len(self._heard) < _LENGTH.size:
            return None
        end = _LENGTH.size + _LENGTH.unpack_from(self._heard)[0]
        if len(self._heard) < end:
            return None
        message = bytes(self._heard[_LENGTH.size : end])
        del self._heard[:end]
        return message

    def _is_readable(self, timeout_s: float) -> bool:
        if self._end.fileno() < 0:  # the number may be another file's by now
            raise PeerGoneError
        return bool(self._poll.poll(max(0.0, timeout_s) * 1000))

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
