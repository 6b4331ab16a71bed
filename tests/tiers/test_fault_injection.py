"""Faults come as planned, are counted, and look like the real ones."""

import errno
import mmap
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from tests.contracts.tier import BLOCK_NBYTES, NUM_SLOTS, TierContract, raw_get, raw_put
from tests.tiers.kit import content
from tiers.checksum import crc32c
from tiers.errors import CorruptBlockError, DiskFullError, TransferError
from tiers.fault_injection import Fault, FaultPlan, FaultyTier
from tiers.io_queue import Completion, IOQueue, IORequest
from tiers.memory_tier import MemoryTier
from tiers.nvme_tier import NVMeTier
from tiers.tier import SupportsDirectIO, SupportsView, Tier


class TestTierWithoutFaults(TierContract):
    """With an empty plan it is any tier."""

    def make(self, directory: Path) -> Tier:
        return FaultyTier(NVMeTier(directory, NUM_SLOTS, BLOCK_NBYTES), FaultPlan())

    def get(self, tier: Tier, slot: int) -> bytes:
        assert isinstance(tier, SupportsDirectIO)
        return raw_get(tier, slot)

    def put(self, tier: Tier, slot: int, data: bytes) -> None:
        assert isinstance(tier, FaultyTier)
        assert isinstance(tier.wrapped, NVMeTier)
        tier.wrapped.seal(slot, crc32c(memoryview(data)))
        raw_put(tier.wrapped, slot, data)


@pytest.fixture
def nvme(tmp_path: Path) -> Iterator[NVMeTier]:
    with closing(NVMeTier(tmp_path, 4, BLOCK_NBYTES)) as tier:
        for slot in range(4):
            tier.write(slot, memoryview(content(slot, BLOCK_NBYTES)))
        yield tier


def requests(tier: NVMeTier, count: int, *, is_write: bool = False) -> list[IORequest]:
    """One request for each of the first slots; what is written is what is there already."""
    made = []
    for slot in range(count):
        (extent,) = tier.extents(slot)
        buffer = memoryview(mmap.mmap(-1, BLOCK_NBYTES))
        if is_write:
            buffer[:] = content(slot, BLOCK_NBYTES)
        made.append(IORequest(slot, extent.fd, extent.offset, (buffer,), is_write))
    return made


def run(tier: FaultyTier, wanted: Sequence[IORequest]) -> dict[int, Completion]:
    assert isinstance(tier, SupportsDirectIO)
    queue: IOQueue = tier.open_queue(len(wanted))
    with closing(queue):
        queue.submit(wanted)
        assert queue.in_flight == len(wanted)
        done = {completion.tag: completion for completion in queue.reap(len(wanted))}
        assert queue.in_flight == 0
        return done


def test_strikes_the_operations_that_the_plan_names(nvme: NVMeTier) -> None:
    """Reads and writes are counted apart, whether they come one by one or by a queue."""
    tier = FaultyTier(nvme, FaultPlan(reads={1: Fault.IO_ERROR, 4: Fault.IO_ERROR}, writes={0: Fault.NO_SPACE}))
    buffer = memoryview(bytearray(BLOCK_NBYTES))
    tier.read(0, buffer)
    with pytest.raises(TransferError, match="tier 'nvme': Input/output error"):
        tier.read(0, buffer)
    with pytest.raises(DiskFullError, match=f"{nvme.directory}: 8,192 bytes wanted, 0 free"):
        tier.write(0, buffer)
    done = run(tier, requests(nvme, 4))
    assert {tag: completion.error and completion.error.errno for tag, completion in done.items()} == {
        0: None,
        1: None,
        2: errno.EIO,
        3: None,
    }
    assert tier.faults.injected == {Fault.IO_ERROR: 2, Fault.NO_SPACE: 1}
    assert (tier.faults.num_reads, tier.faults.num_writes) == (6, 1)


def test_errors_of_a_queue_look_like_those_of_the_kernel(nvme: NVMeTier) -> None:
    kinds = {0: Fault.NO_SPACE, 1: Fault.IO_ERROR, 2: Fault.GONE, 3: Fault.BIT_FLIP}
    tier = FaultyTier(nvme, FaultPlan(writes=kinds))
    done = run(tier, requests(nvme, 4, is_write=True))
    assert [done[tag].error and done[tag].error.errno for tag in range(4)] == [  # type: ignore[union-attr]
        errno.ENOSPC,
        errno.EIO,
        errno.ENODEV,
        errno.EIO,
    ]


def test_a_short_request_says_so(nvme: NVMeTier) -> None:
    tier = FaultyTier(nvme, FaultPlan(reads={1: Fault.SHORT}))
    done = run(tier, requests(nvme, 2))
    assert (done[0].nbytes, done[1].nbytes) == (BLOCK_NBYTES, BLOCK_NBYTES // 2)
    assert done[1].error is None


def test_a_bit_flips_in_silence(nvme: NVMeTier) -> None:
    """In a queue, where the engine has to notice; a blocking read notices by itself if there is a checksum."""
    tier = FaultyTier(nvme, FaultPlan(reads={0: Fault.BIT_FLIP, 2: Fault.BIT_FLIP}))
    wanted = requests(nvme, 2)
    assert run(tier, wanted) == {tag: Completion(tag, BLOCK_NBYTES) for tag in range(2)}
    assert wanted[1].buffers[0] == content(1, BLOCK_NBYTES)
    pairs = zip(wanted[0].buffers[0], content(0, BLOCK_NBYTES), strict=True)
    assert sum((found ^ expected).bit_count() for found, expected in pairs) == 1
    with pytest.raises(CorruptBlockError):
        tier.read(0, memoryview(bytearray(BLOCK_NBYTES)))
    with closing(FaultyTier(MemoryTier("host", 1, 4096), FaultPlan(reads={0: Fault.BIT_FLIP}))) as memory:
        buffer = memoryview(bytearray(100))
        memory.read(0, buffer)
        assert sum(byte.bit_count() for byte in buffer) == 1


def test_everything_fails_once_the_drive_is_gone(nvme: NVMeTier) -> None:
    tier = FaultyTier(nvme, FaultPlan(gone_from=3))
    buffer = memoryview(bytearray(BLOCK_NBYTES))
    tier.read(0, buffer)
    tier.write(0, buffer)
    tier.read(0, buffer)
    for _ in range(2):
        with pytest.raises(TransferError, match="No such device"):
            tier.read(0, buffer)
        with pytest.raises(TransferError, match="No such device"):
            tier.write(0, buffer)
    assert {c.error and c.error.errno for c in run(tier, requests(nvme, 3)).values()} == {errno.ENODEV}


def test_what_hangs_goes_on_when_released(nvme: NVMeTier) -> None:
    """Meanwhile the others are answered, and waiting for it ends in time."""
    tier = FaultyTier(nvme, FaultPlan(reads={1: Fault.HANG}))
    wanted = requests(nvme, 3)
    assert isinstance(tier, SupportsDirectIO)
    with closing(tier.open_queue(3)) as queue:
        queue.submit(wanted)
        done = [*queue.reap(2), *queue.reap(0), *queue.reap(1, timeout_s=0.0), *queue.reap(1, timeout_s=0.02)]
        assert sorted(completion.tag for completion in done) == [0, 2]
        assert wanted[1].buffers[0] == bytes(BLOCK_NBYTES)
        tier.release()
        assert queue.reap() == [Completion(1, BLOCK_NBYTES)]
    assert wanted[1].buffers[0] == content(1, BLOCK_NBYTES)


def test_whoever_waits_for_what_hangs_is_woken(nvme: NVMeTier) -> None:
    tier = FaultyTier(nvme, FaultPlan(reads={0: Fault.HANG, 1: Fault.HANG}))
    assert isinstance(tier, SupportsDirectIO)
    queue = tier.open_queue(1)
    queue.submit(requests(nvme, 1))
    buffer = memoryview(bytearray(BLOCK_NBYTES))
    waiting = [threading.Thread(target=queue.reap), threading.Thread(target=tier.read, args=(2, buffer))]
    for thread in waiting:
        thread.start()
    tier.release()
    for thread in waiting:
        thread.join()
    assert buffer == content(2, BLOCK_NBYTES)
    queue.close()


def test_closing_fails_what_hangs(nvme: NVMeTier) -> None:
    """It must not reach a file descriptor that may be another file's by then."""
    tier = FaultyTier(nvme, FaultPlan(reads={0: Fault.HANG}))
    assert isinstance(tier, SupportsDirectIO)
    queue = tier.open_queue(1)
    queue.submit(requests(nvme, 1))
    tier.close()
    (completion,) = queue.reap()
    assert completion.error is not None
    assert completion.error.errno == errno.ENODEV
    queue.close()


def test_a_delay_only_delays(nvme: NVMeTier) -> None:
    tier = FaultyTier(nvme, FaultPlan(reads=dict.fromkeys(range(3), Fault.DELAY), delay_s=0.001))
    wanted = requests(nvme, 2)
    assert all(completion.error is None for completion in run(tier, wanted).values())
    buffer = memoryview(bytearray(BLOCK_NBYTES))
    tier.read(3, buffer)
    assert [*(request.buffers[0] for request in wanted), buffer] == [content(i, BLOCK_NBYTES) for i in (0, 1, 3)]


def test_the_same_plan_strikes_the_same_operations() -> None:
    def fates(plan: FaultPlan) -> list[Fault | None]:
        return [plan.fault(reads=i, writes=i, is_write=is_write) for i in range(400) for is_write in (False, True)]

    plan = FaultPlan(rate=0.25, seed=5)
    drawn = fates(plan)
    assert drawn == fates(FaultPlan(rate=0.25, seed=5))
    assert drawn != fates(FaultPlan(rate=0.25, seed=6))
    assert set(drawn) == {None, *plan.kinds}
    assert 0.15 < sum(fault is not None for fault in drawn) / len(drawn) < 0.35
    assert set(fates(FaultPlan())) == {None}


def test_memory_is_still_memory() -> None:
    with closing(FaultyTier(MemoryTier("host", 1, 4096), FaultPlan(gone_from=0))) as tier:
        assert isinstance(tier, SupportsView)
        assert not isinstance(tier, SupportsDirectIO)
        tier.view(0)[:] = content(1)
        assert tier.view(0) == content(1)
