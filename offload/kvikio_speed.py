"""With which settings kvikio reads a drive's file fastest into the memory of a device."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import torch

from offload.disk_speed import descriptor
from tiers.errors import TransferError
from tiers.io_queue import IORequest
from tiers.kvikio_queue import KvikioQueue
from tiers.kvikio_settings import KvikioSettings
from tiers.nvme_tier import NVMeTier
from tiers.transfer import TransferConfig

_NUM_THREADS = (4, 8, 16, 32)
_TASK_NBYTES = (128 * 2**10, 512 * 2**10, 4 * 2**20)
_BETTER = 1.03
"""So much faster it has to be to take the place of what was tried before: less is the drive's mood."""


def fastest_settings(
    tier: NVMeTier, device: "torch.device | str", *, nbytes: int, seconds: float
) -> tuple[KvikioSettings, float]:
    """The best one by one: threads, then the size of tasks, then O_DIRECT; and the bytes per second with them.

    Each is tried on the first ``nbytes`` of the file for ``seconds`` at most. Raises TransferError.
    """
    best = KvikioSettings()
    rate = read_rate(tier, device, best, nbytes=nbytes, seconds=seconds)
    choices = (("num_threads", _NUM_THREADS), ("task_nbytes", _TASK_NBYTES), ("is_direct", (True, False)))
    for name, values in choices:
        for value in values:
            settings = replace(best, **cast("dict[str, Any]", {name: value}))
            if settings == best:
                continue
            found = read_rate(tier, device, settings, nbytes=nbytes, seconds=seconds)
            if found > _BETTER * rate:
                best, rate = settings, found
    return best, rate


def read_rate(
    tier: NVMeTier, device: "torch.device | str", settings: KvikioSettings, *, nbytes: int, seconds: float
) -> float:
    """Bytes per second of requests as a link makes them, no range twice: the second time it may be in a cache."""
    config = TransferConfig()
    size = min(config.chunk_nbytes, nbytes)
    buffers = [torch.empty(size, dtype=torch.uint8, device=device) for _ in range(config.queue_depth)]
    # What a trial without O_DIRECT has left in the page cache.
    os.posix_fadvise(descriptor(tier), 0, 0, os.POSIX_FADV_DONTNEED)
    queue = KvikioQueue(config.queue_depth, settings)
    free, moved = list(range(config.queue_depth)), 0
    start = time.perf_counter()
    offsets = _until(start + seconds, range(0, nbytes - size + 1, size))
    try:
        while True:
            queue.submit(
                [
                    IORequest(tag, descriptor(tier), offset, (cast("memoryview", buffers[tag]),), is_write=False)
                    for tag, offset in zip(free, offsets, strict=False)
                ]
            )
            if not queue.in_flight:
                return moved / (time.perf_counter() - start)
            done = queue.reap(1)
            for one in done:
                if one.error or one.nbytes != size:
                    reason = one.error or f"{one.nbytes} bytes moved"
                    raise TransferError(f"kvikio: read of {size} bytes failed: {reason}", tier=tier.name)
                moved += one.nbytes
            free = [one.tag for one in done]
    finally:
        queue.close()


def _until(deadline: float, offsets: range) -> Iterator[int]:
    for offset in offsets:
        if offset and time.perf_counter() >= deadline:
            return
        yield offset
