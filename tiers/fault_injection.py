"""Tiers that fail on purpose: to see that a run survives a bad drive, or what a slow one costs."""

import errno
import os
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from random import Random

from tiers.checksum import crc32c
from tiers.errors import DiskFullError, TransferError
from tiers.io_queue import Completion, IOQueue, IORequest
from tiers.tier import SupportsChecksum, SupportsDirectIO, Tier
from tiers.wrapper import TierWrapper


class Fault(Enum):
    """What goes wrong with one read or write."""

    IO_ERROR = auto()
    """It fails with EIO."""
    NO_SPACE = auto()
    """A write fails with ENOSPC, a read with EIO."""
    SHORT = auto()
    """Half of the bytes are moved."""
    BIT_FLIP = auto()
    """A read returns one wrong bit; a write fails with EIO."""
    DELAY = auto()
    """It takes ``delay_s`` longer."""
    HANG = auto()
    """It takes until ``release`` is called."""
    GONE = auto()
    """The drive is not there any more: ENODEV."""


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Which operations of a tier go wrong. Reads and writes are counted apart, from 0.

    The same plan injects the same faults, as long as operations come in the same order.
    """

    reads: Mapping[int, Fault] = field(default_factory=dict)
    writes: Mapping[int, Fault] = field(default_factory=dict)
    rate: float = 0.0
    """Share of the other operations that go wrong, in a way drawn from ``kinds``."""
    kinds: Sequence[Fault] = (Fault.IO_ERROR, Fault.SHORT, Fault.BIT_FLIP)
    seed: int = 0
    gone_from: int | None = None
    """From this operation on, reads and writes counted together, every one finds the drive gone."""
    delay_s: float = 0.01

    def fault(self, *, reads: int, writes: int, is_write: bool) -> Fault | None:
        """What goes wrong with the next operation, after so many reads and writes."""
        if self.gone_from is not None and reads + writes >= self.gone_from:
            return Fault.GONE
        index, planned = (writes, self.writes) if is_write else (reads, self.reads)
        if index in planned:
            return planned[index]
        random = Random(f"{self.seed} {is_write} {index}")  # noqa: S311 - dice, not secrets
        return random.choice(self.kinds) if random.random() < self.rate else None


class FaultInjector:
    """Counts the operations of one tier, on whatever thread they happen, and says what goes wrong with each."""

    def __init__(self, plan: FaultPlan) -> None:
        self.plan = plan
        self.released = threading.Event()
        self.is_closed = False
        self.num_reads = 0
        self.num_writes = 0
        self.injected: Counter[Fault] = Counter()
        self._lock = threading.Lock()

    def next(self, *, is_write: bool) -> Fault | None:
        """Count one operation and draw its fate."""
        with self._lock:
            fault = self.plan.fault(reads=self.num_reads, writes=self.num_writes, is_write=is_write)
            self.num_reads += not is_write
            self.num_writes += is_write
            if fault is not None:
                self.injected[fault] += 1
            return fault


class FaultyTier(TierWrapper):
    """A tier whose reads and writes go wrong as ``plan`` says: its own, and those of its queues.

    What goes through ``view`` is memory, and does not fail. ``faults.injected`` counts what has been injected.
    """

    def __init__(self, wrapped: Tier, plan: FaultPlan) -> None:
        self.faults = FaultInjector(plan)
        super().__init__(wrapped)

    def release(self) -> None:
        """Let everything that hangs go on, and nothing hang from now on."""
        self.faults.released.set()

    def read(self, slot: int, buffer: memoryview) -> None:
        fault = self._suffer(is_write=False)
        if fault is not Fault.BIT_FLIP:
            self.wrapped.read(slot, buffer)
            return
        block = memoryview(bytearray(self.block_nbytes))
        self.wrapped.read(slot, block)
        _flip_a_bit((block[: buffer.nbytes],))
        if isinstance(self.wrapped, SupportsChecksum):
            self.wrapped.verify(slot, crc32c(block))
        buffer[:] = block[: buffer.nbytes]

    def write(self, slot: int, buffer: memoryview) -> None:
        self._suffer(is_write=True)
        self.wrapped.write(slot, buffer)

    def close(self) -> None:
        self.faults.is_closed = True
        self.release()
        super().close()

    def _open_queue(self, depth: int) -> IOQueue:
        assert isinstance(self.wrapped, SupportsDirectIO)
        return FaultyQueue(self.wrapped.open_queue(depth), self.faults)

    def _suffer(self, *, is_write: bool) -> Fault | None:
        """Wait or raise as the plan says; returns the fault if the operation goes on."""
        fault = self.faults.next(is_write=is_write)
        if fault is Fault.HANG:
            self.faults.released.wait()
        elif fault is Fault.DELAY:
            self.faults.released.wait(self.faults.plan.delay_s)
        elif fault is Fault.NO_SPACE and is_write:
            path = Path(getattr(self.wrapped, "directory", self.name))
            raise DiskFullError(self.name, path=path, wanted_bytes=self.block_nbytes, available_bytes=0)
        elif fault is not None and (is_write or fault is not Fault.BIT_FLIP):
            raise TransferError(f"tier '{self.name}': {_error(fault, is_write=is_write).strerror}", tier=self.name)
        return fault


class FaultyQueue(IOQueue):
    """A queue in front of ``inner``: withholds requests, spoils what they read, reports errors that did not happen."""

    def __init__(self, inner: IOQueue, faults: FaultInjector) -> None:
        super().__init__(inner.depth)
        self._inner = inner
        self._faults = faults
        self._failed: list[Completion] = []
        # Withheld requests and when they may go: at a time of time.monotonic, or (None) when ``released`` is set.
        self._held: list[tuple[IORequest, float | None]] = []
        self._spoiled: dict[int, tuple[IORequest, Fault]] = {}

    def submit(self, requests: Sequence[IORequest]) -> None:
        sound: list[IORequest] = []
        for request in requests:
            fault = self._faults.next(is_write=request.is_write)
            if fault is Fault.HANG:
                self._held.append((request, None))
            elif fault is Fault.DELAY:
                self._held.append((request, time.monotonic() + self._faults.plan.delay_s))
            elif fault is Fault.SHORT or (fault is Fault.BIT_FLIP and not request.is_write):
                self._spoiled[request.tag] = (request, fault)
                sound.append(request)
            elif fault is not None:
                self._failed.append(Completion(request.tag, 0, _error(fault, is_write=request.is_write)))
            else:
                sound.append(request)
        self.in_flight += len(requests)
        self._inner.submit(sound)

    def reap(self, minimum: int = 1, timeout_s: float | None = None) -> list[Completion]:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        minimum = min(minimum, self.in_flight)
        done: list[Completion] = []
        while True:
            self._let_go()
            done += self._failed
            self._failed = []
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if self._inner.in_flight:
                done += map(self._spoil, self._inner.reap(int(len(done) < minimum), left))
            elif self._held and len(done) < minimum:
                self._wait_for_held(left)
            if len(done) >= minimum or left == 0.0:
                self.in_flight -= len(done)
                return done

    def close(self) -> None:
        while self.in_flight:
            self.reap()
        self._inner.close()

    def _let_go(self) -> None:
        """Start what has been withheld for long enough; on a closed tier, whose files are gone, it fails instead."""
        now = time.monotonic()
        is_released = self._faults.released.is_set()
        held, self._held = self._held, []
        for request, due in held:
            if self._faults.is_closed:
                error = _error(Fault.GONE, is_write=request.is_write)
                self._failed.append(Completion(request.tag, 0, error))
            elif is_released or (due is not None and due <= now):
                self._inner.submit([request])
            else:
                self._held.append((request, due))

    def _wait_for_held(self, left: float | None) -> None:
        now = time.monotonic()
        waits = [max(0.0, due - now) for _, due in self._held if due is not None]
        if left is not None:
            waits.append(left)
        self._faults.released.wait(min(waits, default=None))

    def _spoil(self, completion: Completion) -> Completion:
        if completion.tag not in self._spoiled:
            return completion
        request, fault = self._spoiled.pop(completion.tag)
        if fault is Fault.SHORT:
            return Completion(completion.tag, completion.nbytes // 2, completion.error)
        _flip_a_bit(request.buffers)
        return completion


def _error(fault: Fault, *, is_write: bool) -> OSError:
    code = errno.EIO
    if fault is Fault.GONE:
        code = errno.ENODEV
    elif fault is Fault.NO_SPACE and is_write:
        code = errno.ENOSPC
    return OSError(code, os.strerror(code))


def _flip_a_bit(buffers: Sequence[memoryview]) -> None:
    """In the middle of the buffers, so that no header or padding at an end takes the damage."""
    buffer = buffers[len(buffers) // 2]
    buffer[buffer.nbytes // 2] ^= 1
