"""The memory that host and drive share: rings of headers, and room for data and replies.

It has no name in the file system: the host makes it and hands its descriptor to the drive's process, so there is
nothing to be left behind, whoever dies first. What says that a header is there goes over a socket (the doorbell), which
also tells either side at once that the other is gone, and costs no processor time while nothing happens.
"""

import mmap
import os
from collections import deque
from contextlib import suppress

from tiers.csd.wire import COMPLETION, SUBMISSION, CompletionHeader, Submission
from tiers.slots import align_up


class QueueMemory:
    """``depth`` submissions, as many completions, and ``data``. Entry ``n`` lies in place ``n % depth``."""

    def __init__(self, fd: int, depth: int, data_nbytes: int) -> None:
        self.fd = fd
        self.depth = depth
        data_start = align_up(depth * (SUBMISSION.size + COMPLETION.size))
        self._mapping = mmap.mmap(fd, data_start + data_nbytes)
        self._memory = memoryview(self._mapping)
        self.data = self._memory[data_start:]
        """Offsets in headers count from its start."""

    @classmethod
    def create(cls, depth: int, data_nbytes: int) -> "QueueMemory":
        """New and empty memory. OSError where the machine has none."""
        fd = os.memfd_create("csd-queue", os.MFD_CLOEXEC)
        os.ftruncate(fd, align_up(depth * (SUBMISSION.size + COMPLETION.size)) + data_nbytes)
        return cls(fd, depth, data_nbytes)

    def put_submission(self, number: int, header: Submission) -> None:
        SUBMISSION.pack_into(self._memory, number % self.depth * SUBMISSION.size, *header)

    def submission(self, number: int) -> Submission:
        return Submission(*SUBMISSION.unpack_from(self._memory, number % self.depth * SUBMISSION.size))

    def put_completion(self, number: int, header: CompletionHeader) -> None:
        COMPLETION.pack_into(self._memory, self._completion(number), *header)

    def completion(self, number: int) -> CompletionHeader:
        return CompletionHeader(*COMPLETION.unpack_from(self._memory, self._completion(number)))

    def close(self) -> None:
        """Closing twice does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            with suppress(BufferError):  # somebody still looks at a part; the memory goes with the last who does
                self.data.release()
                self._memory.release()
                self._mapping.close()

    def _completion(self, number: int) -> int:
        return self.depth * SUBMISSION.size + number % self.depth * COMPLETION.size


class Arena:
    """Who uses which part of ``nbytes``: taken in any size, given back in the order in which it was taken."""

    def __init__(self, nbytes: int, alignment: int = 64) -> None:
        self.nbytes = nbytes
        self._alignment = alignment
        self._taken: deque[tuple[int, int]] = deque()  # first byte, end

    def take(self, nbytes: int) -> int | None:
        """Where ``nbytes`` lie that nobody else uses; None while others use too much."""
        size = align_up(max(nbytes, 1), self._alignment)
        if not self._taken:
            start = 0
            fits = size <= self.nbytes
        else:
            first, start = self._taken[0][0], self._taken[-1][1]
            if start > first:
                fits = start + size <= self.nbytes
                if not fits:  # go on at the beginning
                    start, fits = 0, size <= first
            else:
                fits = start + size <= first
        if not fits:
            return None
        self._taken.append((start, start + size))
        return start

    def give_back(self) -> None:
        """What was taken first."""
        self._taken.popleft()

    def take_back(self) -> None:
        """What was taken last: it was not used."""
        self._taken.pop()
