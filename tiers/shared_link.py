"""One direction between files and memory that a device computes in: no copy, only in turn with the device's work."""

import threading
from collections.abc import Sequence
from contextlib import suppress

from tiers.chunked_link import Job
from tiers.copier import Copier
from tiers.file_link import FileLink
from tiers.io_queue import IOQueue
from tiers.link import Transfer
from tiers.timeline import Timeline


class SharedFileLink(FileLink):
    """A FileLink whose requests wait until the device has done what it had been given when they were submitted.

    Until then it may still read the slots that are to be filled, or write those that are to be stored. What it is given
    after a transfer has ended sees what has arrived.
    """

    def __init__(
        self,
        name: str,
        finished: threading.Condition,
        timeline: Timeline | None,
        queue: IOQueue,
        chunk_nbytes: int,
        guess_depth: int,
        copier: Copier,
        *,
        is_write: bool,
    ) -> None:
        self._copier = copier
        super().__init__(name, finished, timeline, queue, chunk_nbytes, guess_depth, is_write=is_write)

    def submit(self, transfer: Transfer) -> None:
        transfer.after = self._copier.mark()
        super().submit(transfer)

    def _begin(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._copier.reach(job.transfer.after)
        super()._begin(jobs)

    def _shut(self) -> None:
        super()._shut()
        with suppress(RuntimeError):  # a device that is gone has nothing to wait for
            self._copier.close()
