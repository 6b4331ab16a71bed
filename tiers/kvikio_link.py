"""From files into the memory of a device without a stop in host memory, where the machine can do that."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from tiers.chunked_link import Job
from tiers.copier import as_tensor
from tiers.staged_link import StagedFileLink

if TYPE_CHECKING:
    from tiers.tier import SupportsMemory


class KvikioLink(StagedFileLink):
    """A StagedFileLink of reads whose requests land in the slots themselves.

    Checksums are taken all the same: blocks of a tier that keeps them are copied to the ring once they have landed, by
    the engine that copies from the device to the host and has nothing else to do then. Work that uses the slots is
    waited for, since the drive knows nothing of streams.
    """

    def _begin(self, jobs: Sequence[Job]) -> None:
        requests = []
        for job in jobs:
            job.ring_slot = self._free.pop()
            self._copier.reach(job.transfer.after)
            device = as_tensor(cast("SupportsMemory", job.transfer.target).flat())
            parts: Any = tuple(device[part.start : part.stop] for part in job.chunk.buffers)
            requests.append((job, cast("tuple[memoryview, ...]", parts)))
        self._request(requests)

    def _land(self, job: Job) -> None:
        if job.transfer.checksums is None or job.transfer.error is not None:
            self._leave_ring(job)
        else:
            self._copy(job, to_ring=True)

    def _after_copy(self, job: Job) -> None:
        self._sum(job, self._parts(job))
        self._leave_ring(job)
