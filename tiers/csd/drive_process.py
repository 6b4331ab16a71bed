"""Starting the process of an emulated drive, and ending it."""

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import tiers
from tiers.csd.doorbell import Doorbell, PeerGoneError, PeerSilentError
from tiers.csd.failure import Status, rebuild
from tiers.csd.geometry import FlashGeometry
from tiers.csd.queue_memory import QueueMemory
from tiers.errors import DeviceGoneError

_START_S = 60.0
_RECOVERY_BYTES_PER_S = 2**28
_END_S = 10.0


class DriveProcess:
    """A running ``tiers.csd.device`` and our end of its doorbell."""

    def __init__(
        self,
        *,
        name: str,
        image: Path,
        geometry: FlashGeometry,
        keep: bool,
        queue: QueueMemory,
        data_nbytes: int,
        traces: bool,
    ) -> None:
        """Wait until it has opened its image. Raises what that raises (see ``FlashImage``), DeviceGoneError."""
        self.name = name
        ours, theirs = socket.socketpair()
        description = {
            "name": name,
            "image": str(image.absolute()),
            "geometry": asdict(geometry),
            "keep": keep,
            "doorbell": theirs.fileno(),
            "memory": queue.fd,
            "depth": queue.depth,
            "data_nbytes": data_nbytes,
            "traces": traces,
        }
        # The drive finds this package wherever we found it, and nothing by accident in the current directory (-P).
        root = str(Path(str(tiers.__file__)).parents[1])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tiers.csd.device", json.dumps(description)],
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), queue.fd),
            )
        self.doorbell = Doorbell(ours)
        try:
            answer = json.loads(self.doorbell.hear(_START_S + geometry.capacity_nbytes / _RECOVERY_BYTES_PER_S))
        except (PeerGoneError, PeerSilentError):
            raise self.gone("did not start") from None
        if answer["status"] != Status.OK:
            self.end()
            raise rebuild(Status(answer["status"]), answer)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def gone(self, what: str) -> DeviceGoneError:
        """The error to raise when the drive does not answer (any more). It is dead when this returns."""
        self.kill()
        status = self._process.returncode
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        return DeviceGoneError(
            f"tier '{self.name}': the drive's process {self.pid} {what} ({how}); the keys and values in its memory are "
            "lost: start the requests that used it again",
            tier=self.name,
        )

    def end(self) -> None:
        """Close the doorbell and wait for the process to end by itself. Ending twice does nothing."""
        self.doorbell.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it at once, unless it has."""
        self.doorbell.close()
        try:
            # One that is dying already is given the moment it takes to say how.
            self._process.wait(0.2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
