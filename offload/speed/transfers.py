"""What moving blocks takes beside the drive: hand-overs between threads, the work of a link's thread, checksums."""

import itertools
import statistics
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from offload.disk_speed import read_latency_s
from offload.speed.products import median_s
from tiers.block import ExpertKey
from tiers.checksum import crc32c
from tiers.chunks import Move
from tiers.eviction.lru import LRUPolicy
from tiers.link import Priority
from tiers.manager import Level, TieredMemoryManager
from tiers.memory_tier import MemoryTier
from tiers.nvme_tier import NVMeTier
from tiers.pool import BlockPool
from tiers.tier import ALIGNMENT
from tiers.transfer import Transfer, TransferEngine
from tiers.weight_tier import WeightTier

_SMALL, _BLOCKS = 64 * 1024, 256
_HOT_NBYTES = 256 * 2**20
"""What is streamed again and again."""
_AHEAD = 3


@dataclass(frozen=True, slots=True)
class TransferCosts:
    """Seconds, but for ``checksum_bytes_per_s``. See RuntimeProfile."""

    transfer_s: float
    request_s: float
    checksum_bytes_per_s: float
    missed_expert_s: float


def measure_transfers(directory: Path, seconds: float) -> TransferCosts:
    """Through an engine of its own and a file below ``directory``, 16 MiB. Raises as NVMeTier."""
    checksum = _checksum_bytes_per_s(seconds)
    with _small_blocks(directory, ALIGNMENT) as (engine, drive, memory):
        alone_s = median_s(lambda: _fetch(engine, drive, memory, 1), seconds, least=8)
        latency_s = read_latency_s(drive, nbytes=drive.num_slots * ALIGNMENT, seconds=seconds)
    with _small_blocks(directory, _SMALL) as (engine, drive, memory):
        # Scattered, so that no two of them are one request.
        start_cpu, moved, deadline = time.process_time(), 0, time.perf_counter() + 2 * seconds
        while not moved or time.perf_counter() < deadline:
            _fetch(engine, drive, memory, _BLOCKS // 2)
            moved += _BLOCKS // 2
        request_s = (time.process_time() - start_cpu) / moved - _SMALL / checksum
        missed_s = _missed_s(engine, drive, seconds)
    return TransferCosts(max(0.0, alone_s - latency_s), max(0.0, request_s), checksum, missed_s)


def stream_speed(source: WeightTier, seconds: float) -> float:
    """Bytes per second at which groups of a checkpoint come through an engine, over and over. Raises TransferError."""
    some: list[int] = []
    for slot, group in enumerate(source.groups):
        if group.kind in ("layer", "expert") and len(some) * source.block_nbytes < _HOT_NBYTES:
            some.append(slot)
    memory, engine = MemoryTier("device", _AHEAD + 1, source.block_nbytes), TransferEngine()
    under_way: deque[Transfer] = deque()
    try:
        start = time.perf_counter()
        for count, slot in enumerate(itertools.cycle(some)):
            if len(under_way) > _AHEAD:
                engine.wait(under_way.popleft())
                if time.perf_counter() - start >= seconds:
                    break
            move = Move(slot, count % (_AHEAD + 1))
            under_way.append(engine.submit(source, memory, [move], Priority.DEMAND))
        link = engine.links["nvme->device"]
        return link.nbytes / (time.perf_counter() - start)
    finally:
        engine.close()
        memory.close()


@contextmanager
def streaming(source: WeightTier) -> Iterator[None]:
    """Meanwhile the layers of a checkpoint come from the drive as fast as they can, by a thread that is told rarely."""
    slots = [slot for slot, group in enumerate(source.groups) if group.kind == "layer"]
    memory, engine = MemoryTier("device", len(slots), source.block_nbytes), TransferEngine()
    moves = [Move(slot, place) for place, slot in enumerate(slots)]
    is_over = threading.Event()

    def read() -> Transfer:
        return engine.submit(source, memory, moves, Priority.DEMAND)

    def go_on() -> None:
        under_way = deque([read(), read()])
        while not is_over.is_set():
            engine.wait(under_way.popleft())
            under_way.append(read())

    try:
        engine.wait(read())  # pages that nobody has touched yet cost more
        thread = threading.Thread(target=go_on, daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()
    finally:
        engine.close()
        memory.close()


@contextmanager
def _small_blocks(directory: Path, nbytes: int) -> Iterator[tuple[TransferEngine, NVMeTier, MemoryTier]]:
    """Blocks on a drive, written, and half as many slots for them in memory."""
    drive, memory, engine = (
        NVMeTier(directory, _BLOCKS, nbytes),
        MemoryTier("device", _BLOCKS, nbytes),
        TransferEngine(),
    )
    try:
        np.frombuffer(memory.buffer, np.uint8)[:] = np.arange(_BLOCKS * nbytes, dtype=np.uint64).view(np.uint8)[::8]
        moves = [Move(slot, slot) for slot in range(_BLOCKS)]
        engine.wait(engine.submit(memory, drive, moves, Priority.DEMAND))
        yield engine, drive, memory
    finally:
        engine.close()
        memory.close()
        drive.close()


def _fetch(engine: TransferEngine, drive: NVMeTier, memory: MemoryTier, count: int) -> None:
    """Every other block."""
    moves = [Move(2 * slot, slot) for slot in range(count)]
    engine.wait(engine.submit(drive, memory, moves, Priority.DEMAND))


def _missed_s(engine: TransferEngine, drive: NVMeTier, seconds: float) -> float:
    """Making room for a block and asking for it, without the wait."""
    few = MemoryTier("device", 8, drive.block_nbytes)
    manager = TieredMemoryManager(engine, [Level(few, BlockPool(8), LRUPolicy(8))], drive)
    keys = [ExpertKey(0, slot, "stored") for slot in range(drive.num_slots)]
    manager.adopt({key: slot for slot, key in enumerate(keys)})
    times: list[float] = []
    deadline = time.perf_counter() + seconds
    while len(times) < 32 or time.perf_counter() < deadline:
        key = keys[len(times) % len(keys)]
        start = time.perf_counter()
        manager.prepare_load([key])
        times.append(time.perf_counter() - start)
        manager.complete_load([key])
        manager.release([key])
    return statistics.median(times)


def _checksum_bytes_per_s(seconds: float) -> float:
    block = memoryview(np.random.default_rng(0).bytes(32 * 2**20))
    pieces = [block[i : i + 512 * 1024] for i in range(0, len(block), 512 * 1024)]
    return len(block) / median_s(lambda: [crc32c(piece) for piece in pieces], seconds)
