"""The emulated drive as a process of its own: ``python -m tiers.csd.device DESCRIPTION``, started by ``drive_process``.

It sees the queue's memory and its image, nothing else of the host. One thread executes commands in order and does what
can wait (flushing groups, erasing dead blocks) while none is there. It ends when the host closes its end of the
doorbell, by whatever way it dies.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from tiers.csd.doorbell import Doorbell, PeerGoneError
from tiers.csd.drive_codec import decode, encode_completion, fill_json
from tiers.csd.failure import Status, describe, describe_unexpected
from tiers.csd.geometry import FlashGeometry
from tiers.csd.image import FlashImage
from tiers.csd.queue_memory import QueueMemory
from tiers.csd.store import DriveStore
from tiers.csd.wire import CompletionHeader
from tiers.errors import OffloadError, TierError

_IDLE_S = 1.0


class Device:
    """Serves one queue until the host is gone."""

    def __init__(self, store: DriveStore, queue: QueueMemory, doorbell: Doorbell) -> None:
        self._store = store
        self._queue = queue
        self._doorbell = doorbell
        self._num_executed = 0
        self._host = os.getppid()

    def serve(self) -> None:
        """Returns when the host has closed the doorbell or died; an error that nobody expected goes to the caller."""
        pause_s = 0.0
        try:
            while os.getppid() == self._host:  # a copy of the host (a fork) may hold the doorbell open for ever
                num_rings = self._doorbell.rings(pause_s if self._store.has_work else _IDLE_S)
                for _ in range(num_rings):
                    self._execute_next()
                if not num_rings:
                    pause_s = self._work()
        except PeerGoneError:
            pass

    def _work(self) -> float:
        """Do a little of what can wait; seconds to wait before more of it."""
        try:
            self._store.work()
        except TierError:  # the next command that needs what failed has somebody to tell
            return _IDLE_S
        return 0.0

    def _execute_next(self) -> None:
        header = self._queue.submission(self._num_executed)
        reply = self._queue.data[header.reply_offset : header.reply_offset + header.reply_nbytes]
        data = self._queue.data[header.data_offset : header.data_offset + header.data_nbytes]
        status, numbers, trace = Status.OK, (0, 0, 0), b""
        unexpected: Exception | None = None
        try:
            completion = self._store.execute(decode(header, data, lambda task: self._store.shape_of(task)[0]))
            numbers = encode_completion(completion, reply)
            if header.wants_trace:  # of a host that has a timing, which started us with traces
                trace = self._store.trace().pack()
        except OffloadError as error:
            status, fields = describe(error)
            numbers = (0, 0, fill_json(reply, fields))
        except Exception as error:  # noqa: BLE001 - the host hears of it, then we stop
            unexpected, status = error, Status.BROKEN
            numbers = (0, 0, fill_json(reply, describe_unexpected(error, self._store.name)))
        first, second, nbytes = numbers
        self._queue.put_completion(self._num_executed, CompletionHeader(header.tag, status, 0, first, second, nbytes))
        self._num_executed += 1
        self._doorbell.tell(trace)
        if unexpected is not None:
            raise unexpected


def main(description: dict[str, Any]) -> int:
    """Open the image and serve. The first message to the host says whether that worked; returns an exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, for the host to act on
    doorbell = Doorbell(socket.socket(fileno=description["doorbell"]))
    queue = QueueMemory(description["memory"], description["depth"], description["data_nbytes"])
    try:
        geometry = FlashGeometry(**description["geometry"])
        image = FlashImage(Path(description["image"]), geometry, keep=description["keep"])
        store = DriveStore(image, description["name"], traces=description["traces"])
    except OffloadError as error:
        status, fields = describe(error)
        doorbell.tell(json.dumps({"status": status, **fields}).encode())
        return 1
    doorbell.tell(json.dumps({"status": Status.OK}).encode())
    Device(store, queue, doorbell).serve()
    store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
