"""A drive that fails, lies or hangs under the engine: every wait ends, and with the truth."""

import threading
from contextlib import closing

import pytest

from tests.tiers.kit import content
from tests.tiers.watched import BLOCK, ONE_AT_A_TIME, PAGE, WatchedQueue, WatchedTier, broken, holds, load
from tiers.errors import CorruptBlockError, TransferError
from tiers.fault_injection import Fault
from tiers.io_queue import Completion, IOQueue
from tiers.memory_tier import MemoryTier
from tiers.nvme_tier import NVMeTier
from tiers.transfer import Move, Priority, TransferConfig, TransferEngine


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault.IO_ERROR, "nvme->host: Input/output error"),
        (Fault.GONE, "nvme->host: No such device"),
        (Fault.SHORT, "nvme->host: 8192 of 16384 bytes moved at offset 32768"),
    ],
)
def test_a_read_that_fails_is_an_error_once(nvme: NVMeTier, host: MemoryTier, fault: Fault, message: str) -> None:
    """For whoever waits, as often as they ask; the next transfer is none the worse for it."""
    tier = broken(nvme, reads={0: fault})
    with closing(TransferEngine()) as engine:
        transfer = load(engine, tier, host, [2], Priority.DEMAND)
        for _ in range(2):
            with pytest.raises(TransferError, match=message):
                engine.wait(transfer)
        assert engine.poll(transfer)
        engine.wait(load(engine, tier, host, [2], Priority.DEMAND))
    assert holds(host, [2])


def test_a_write_that_fails_is_an_error(nvme: NVMeTier, host: MemoryTier) -> None:
    """What the slot holds is then nobody's: whoever reads it learns that, or gets what was written before."""
    tier = broken(nvme, writes={0: Fault.NO_SPACE})
    with closing(TransferEngine()) as engine:
        with pytest.raises(TransferError, match="host->nvme: No space left on device"):
            engine.wait(engine.submit(host, tier, [Move(0, 2)], Priority.WRITE_BACK))
        with pytest.raises(CorruptBlockError):
            engine.wait(load(engine, tier, host, [2], Priority.DEMAND))


def test_a_wrong_bit_is_an_error(nvme: NVMeTier, host: MemoryTier) -> None:
    tier = broken(nvme, reads={0: Fault.BIT_FLIP})
    with closing(TransferEngine()) as engine, pytest.raises(CorruptBlockError, match="slot 3 of"):
        engine.wait(load(engine, tier, host, [3], Priority.DEMAND))


def test_a_chunk_that_fails_ends_its_transfer_only(nvme: NVMeTier, host: MemoryTier) -> None:
    """The rest of it is not even tried; with several in flight it ends when the last of them has."""
    tier = WatchedTier(broken(nvme, reads={1: Fault.IO_ERROR}))
    with closing(TransferEngine(ONE_AT_A_TIME)) as engine:
        with pytest.raises(TransferError):
            engine.wait(load(engine, tier, host, [0, 1, 2], Priority.DEMAND))
        assert tier.order == ["0.0", "0.1"]
    tier = WatchedTier(broken(nvme, reads={1: Fault.IO_ERROR, 3: Fault.SHORT}))
    with closing(TransferEngine(TransferConfig(queue_depth=4, chunk_nbytes=PAGE))) as engine:
        failing = load(engine, tier, host, [0], Priority.DEMAND)
        sound = load(engine, tier, host, [5, 6], Priority.DEMAND)
        engine.wait(sound)
        with pytest.raises(TransferError, match="Input/output error"):
            engine.wait(failing)
    assert holds(host, [5, 6])


def test_tiers_that_do_not_fit_are_an_error(nvme: NVMeTier, host: MemoryTier, engine: TransferEngine) -> None:
    """A slot too small for a block, in memory or from a file: said to who waits, and the link lives on."""
    small = MemoryTier("small", 4, PAGE)
    for source in (host, nvme):
        with pytest.raises(TransferError, match="->small: "):
            engine.wait(engine.submit(source, small, [Move(0, 0)], Priority.DEMAND))
    twin = MemoryTier("small", 4, BLOCK)
    for source in (host, nvme):
        engine.wait(engine.submit(source, twin, [Move(0, 0)], Priority.DEMAND))
    assert twin.view(0) == content(0, BLOCK)


def test_a_copy_that_fails_ends_its_transfer_only(host: MemoryTier) -> None:
    """The rest of it is not even tried."""
    device = MemoryTier("device", 2, BLOCK)
    host.view(1)[:] = content(1, BLOCK)
    with closing(TransferEngine(ONE_AT_A_TIME)) as engine:
        failing = engine.submit(host, device, [Move(0, 99), Move(1, 1)], Priority.DEMAND)
        sound = engine.submit(host, device, [Move(1, 0)], Priority.DEMAND)
        with pytest.raises(TransferError, match="host->device: "):
            engine.wait(failing)
        engine.wait(sound)
    assert device.view(0) == content(1, BLOCK)
    assert device.view(1) == bytes(BLOCK)


def test_a_drive_that_hangs_does_not_hang_us(nvme: NVMeTier, host: MemoryTier) -> None:
    """The wait ends, the next one at once; the slot stays in danger until the drive has answered after all."""
    tier = WatchedTier(broken(nvme, reads={0: Fault.HANG}))
    engine = TransferEngine(TransferConfig(queue_depth=1, chunk_nbytes=PAGE, stall_timeout_s=0.05))
    hanging = load(engine, tier, host, [0], Priority.DEMAND)
    behind = load(engine, tier, host, [1], Priority.DEMAND)
    for transfer in (hanging, behind):
        with pytest.raises(TransferError, match=r"nvme->host: no answer for 0\.05 s; check the drive"):
            engine.wait(transfer)
    assert not engine.poll(hanging), "it may still write"
    assert engine.poll(behind), "it never will"
    stall_s = engine.stall_s
    with pytest.raises(TransferError, match="no answer"):
        engine.wait(hanging)
    assert engine.stall_s == stall_s
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "nvme->host")
    engine.close()
    assert thread.is_alive()
    tier.faulty.release()
    thread.join()
    assert engine.poll(hanging)
    assert tier.order == ["0.0"], "the rest of it was dropped"
    with pytest.raises(TransferError, match="no answer"):
        engine.wait(hanging)


class BrokenQueue(WatchedQueue):
    """Fails outright, at first, with requests in flight."""

    def reap(self, minimum: int = 1, timeout_s: float | None = None) -> list[Completion]:
        if len(self._offsets) == 1:
            self._offsets.append(-1)
            raise RuntimeError("nobody expects this")
        return super().reap(minimum, timeout_s)


class BrokenTier(WatchedTier):
    def _open_queue(self, depth: int) -> IOQueue:
        queue: IOQueue = self.faulty.open_queue(depth)
        return BrokenQueue(queue, self.offsets, self.started)


def test_a_queue_that_breaks_down_ends_what_it_had(nvme: NVMeTier, host: MemoryTier) -> None:
    """Late answers to that are not mistaken for answers to what comes after."""
    tier = BrokenTier(broken(nvme))
    with closing(TransferEngine(TransferConfig(stall_timeout_s=5))) as engine:
        with pytest.raises(TransferError, match="nvme->host: nobody expects this"):
            engine.wait(load(engine, tier, host, [0], Priority.DEMAND))
        engine.wait(load(engine, tier, host, [1], Priority.DEMAND))
        engine.wait(load(engine, tier, host, [2], Priority.DEMAND))
    assert holds(host, [1, 2])


def test_a_queue_that_breaks_down_is_emptied_first(nvme: NVMeTier, host: MemoryTier) -> None:
    """As long as the drive may write into its slots, no transfer has ended."""
    tier = BrokenTier(broken(nvme, reads={0: Fault.HANG}))
    engine = TransferEngine(TransferConfig(stall_timeout_s=0.05))
    transfer = load(engine, tier, host, [0], Priority.DEMAND)
    with pytest.raises(TransferError, match="no answer"):
        engine.wait(transfer)
    assert not engine.poll(transfer)
    tier.faulty.release()
    engine.close()
    assert engine.poll(transfer)
