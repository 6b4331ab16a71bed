"""How fast the file of an NVMeTier is read and written, measured through the queue that the runtime uses."""

import itertools
import mmap
import os
import random
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tiers.errors import DiskFullError, InvalidOptionError, TransferError
from tiers.io_queue import Completion, IOQueue, IORequest
from tiers.nvme_tier import NVMeTier
from tiers.tier import ALIGNMENT

FILL_NBYTES = 1024 * 1024
"""Size of the writes that lay a file down."""

_LEAST_NBYTES, _MOST_NBYTES = 16 * 2**20, 2**30

Check = Callable[[int, memoryview], None]
"""Called with the offset and the bytes of every block that was read; raises what it finds."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """Blocks of one size, ``depth`` of them in flight, at random or one after the other."""

    block_nbytes: int
    is_write: bool
    is_random: bool
    depth: int = 16


@dataclass(frozen=True, slots=True)
class Throughput:
    """Bytes moved, wall seconds and the processor seconds of this process, all threads together."""

    nbytes: int
    seconds: float
    cpu_s: float

    @property
    def bytes_per_s(self) -> float:
        return self.nbytes / self.seconds

    @property
    def cpu_s_per_gib(self) -> float:
        return self.cpu_s / (self.nbytes / 2**30)


def file_nbytes(directory: Path) -> int:
    """How large a file to measure with: 1 GiB, or a quarter of the free space where that is less.

    Raises InvalidOptionError for a directory that cannot be, DiskFullError where nothing sensible is left.
    """
    try:
        parent = next(path for path in (directory, *directory.absolute().parents) if path.exists())
        free = shutil.disk_usage(parent).free
    except OSError as error:
        raise InvalidOptionError(f"--nvme-dir {directory}: {error.strerror}; name a writable directory") from None
    if free // 4 < _LEAST_NBYTES:
        raise DiskFullError("nvme", path=directory, wanted_bytes=4 * _LEAST_NBYTES, available_bytes=free)
    return min(_MOST_NBYTES, free // 4)


def lay_down(tier: NVMeTier, *, seconds: float) -> int:
    """Write the file from its start with random bytes, for at most ``seconds``; returns the bytes written.

    Reads of space that was allocated but never written do not reach the drive, so only what is written can be measured.
    """
    nbytes = tier.num_slots * tier.block_nbytes
    block = min(FILL_NBYTES, nbytes)

    def offsets() -> Iterator[int]:
        deadline = time.perf_counter() + seconds
        for offset in range(0, nbytes - block + 1, block):
            if offset and time.perf_counter() >= deadline:
                return
            yield offset

    return _run(tier, Pattern(block, is_write=True, is_random=False), offsets(), None).nbytes


def measure(
    tier: NVMeTier, pattern: Pattern, *, nbytes: int, seconds: float, seed: int = 0, check: Check | None = None
) -> Throughput:
    """Move blocks within the first ``nbytes`` of the file for ``seconds``. Raises TransferError."""
    if not pattern.is_write:
        _forget_cached(tier)
    return _run(tier, pattern, _offsets(pattern, nbytes, seed, seconds), check)


def read_latency_s(tier: NVMeTier, *, nbytes: int, seconds: float, seed: int = 0) -> float:
    """Median seconds of a read of 4096 bytes with nothing else in flight."""
    _forget_cached(tier)
    pattern = Pattern(ALIGNMENT, is_write=False, is_random=True, depth=1)
    times: list[float] = []

    def offsets() -> Iterator[int]:
        for offset in _offsets(pattern, nbytes, seed, seconds):
            asked = time.perf_counter()
            yield offset
            # The next offset is asked for when the read has ended, since only one is in flight.
            times.append(time.perf_counter() - asked)

    _run(tier, pattern, offsets(), None)
    return statistics.median(times)


def descriptor(tier: NVMeTier) -> int:
    """The tier's open file, which has no name."""
    return tier.extents(0)[0].fd


def _offsets(pattern: Pattern, nbytes: int, seed: int, seconds: float) -> Iterator[int]:
    """At least one offset, then more until the time is up. The clock starts with the first."""
    num_blocks = nbytes // pattern.block_nbytes
    assert num_blocks > 0, "the file is smaller than a block"
    draw = random.Random(seed).random  # noqa: S311 - a repeatable order of reads
    deadline = time.perf_counter() + seconds
    for position in itertools.count():
        if position and time.perf_counter() >= deadline:
            return
        yield (int(draw() * num_blocks) if pattern.is_random else position % num_blocks) * pattern.block_nbytes


def _run(tier: NVMeTier, pattern: Pattern, offsets: Iterator[int], check: Check | None) -> Throughput:
    """Keep ``depth`` requests in flight until the offsets end. Buffers are made before the clock starts."""
    buffers = [memoryview(mmap.mmap(-1, pattern.block_nbytes)) for _ in range(pattern.depth)]
    for buffer in buffers:
        # Random bytes also touch every page. Zeros would be cheaper, but some drives do not store them.
        buffer[:] = random.randbytes(buffer.nbytes)  # noqa: S311 - filler
    queue = tier.open_queue(pattern.depth)
    try:
        started, started_cpu = time.perf_counter(), time.process_time()
        nbytes = _keep_busy(queue, descriptor(tier), pattern, offsets, buffers, check)
        if pattern.is_write and not tier.direct:
            os.fdatasync(descriptor(tier))
        return Throughput(nbytes, time.perf_counter() - started, time.process_time() - started_cpu)
    finally:
        queue.close()


def _keep_busy(
    queue: IOQueue,
    fd: int,
    pattern: Pattern,
    offsets: Iterator[int],
    buffers: list[memoryview],
    check: Check | None,
) -> int:
    free = list(range(pattern.depth))
    places = [0] * pattern.depth
    moved = 0
    while True:
        requests = []
        # The tags come first, so that an offset is only drawn where there is a tag for it.
        for tag, offset in zip(free, offsets, strict=False):
            places[tag] = offset
            requests.append(IORequest(tag, fd, offset, (buffers[tag],), pattern.is_write))
        queue.submit(requests)
        if not queue.in_flight:
            return moved
        free = []
        for completion in queue.reap(1):
            tag = completion.tag
            if completion.error or completion.nbytes != pattern.block_nbytes:
                raise _failure(completion, pattern, places[tag])
            if check:
                check(places[tag], buffers[tag])
            moved += completion.nbytes
            free.append(tag)


def _failure(completion: Completion, pattern: Pattern, offset: int) -> TransferError:
    what = "write" if pattern.is_write else "read"
    reason = completion.error.strerror if completion.error else f"{completion.nbytes} bytes moved"
    return TransferError(f"{what} of {pattern.block_nbytes} bytes at {offset:,} failed: {reason}", tier="nvme")


def _forget_cached(tier: NVMeTier) -> None:
    """Without O_DIRECT a read would otherwise measure the page cache."""
    if not tier.direct:
        os.fdatasync(descriptor(tier))
        os.posix_fadvise(descriptor(tier), 0, 0, os.POSIX_FADV_DONTNEED)
