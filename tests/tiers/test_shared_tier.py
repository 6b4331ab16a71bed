"""Memory that drives fill and a device computes in: no copy in between, and neither overtakes the other."""

from contextlib import closing
from pathlib import Path

import pytest
import torch

from tests.contracts.tier import BLOCK_NBYTES, NUM_SLOTS, TierContract
from tests.tiers.devices import needs_cuda, on_every_device
from tests.tiers.kit import content
from tests.tiers.watched import BLOCK, load
from tests.tiers.watched import NUM_SLOTS as NUM_BLOCKS
from tiers.copier import PlainCopier
from tiers.errors import OffloadError, TierError
from tiers.file_link import FileLink
from tiers.memory_tier import MemoryTier
from tiers.nvme_tier import NVMeTier
from tiers.pinned_tier import PinnedTier
from tiers.shared_link import SharedFileLink
from tiers.shared_tier import SharedTier
from tiers.staged_link import StagedFileLink
from tiers.tier import ALIGNMENT, SupportsDeviceTensor, SupportsView, Tier
from tiers.transfer import Move, Priority, TransferConfig, TransferEngine


class TestSharedTier(TierContract):
    """Memory like any other; what the device sees is what the host has."""

    device = "cpu"

    def make(self, directory: Path) -> Tier:
        return SharedTier("device", NUM_SLOTS, BLOCK_NBYTES, device=self.device)

    def get(self, tier: Tier, slot: int) -> bytes:
        assert isinstance(tier, SharedTier)
        return tier.seen_slot(slot).cpu().numpy().tobytes()

    def put(self, tier: Tier, slot: int, data: bytes) -> None:
        assert isinstance(tier, SharedTier)
        tier.seen_slot(slot).copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        if self.device != "cpu":
            torch.cuda.synchronize()


@pytest.mark.gpu
@needs_cuda
class TestSharedCudaTier(TestSharedTier):
    device = "cuda"


@on_every_device
def test_both_see_the_same_bytes(device: str) -> None:
    tier = SharedTier.of_sizes("device", [1, 2 * ALIGNMENT], device=device)
    assert [tier.seen_slot(slot).nbytes for slot in range(2)] == [ALIGNMENT, 2 * ALIGNMENT]
    assert tier.seen.device.type == device
    tier.view(1)[:3] = b"abc"
    assert tier.seen_slot(1)[:3].tolist() == list(b"abc")
    tier.seen_slot(1)[1] = 7
    if device != "cpu":
        torch.cuda.synchronize()
    assert bytes(tier.view(1)[:3]) == b"a\x07c"
    assert isinstance(tier, SupportsView)
    assert not isinstance(tier, SupportsDeviceTensor), "or else transfers would be staged"
    tier.close()
    tier.close()


@on_every_device
def test_may_have_no_slots(device: str) -> None:
    tier = SharedTier("device", 0, ALIGNMENT, device=device)
    assert tier.seen.nbytes == 0
    tier.close()


def test_a_device_that_sees_something_else_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy, as torch makes one where it takes the memory for that of another device."""
    monkeypatch.setattr(
        "tiers.shared_tier._seen_by", lambda device, memory: torch.zeros(len(memory), dtype=torch.uint8)
    )
    with pytest.raises(TierError, match="tier 'device': cpu does not see what the host writes"):
        SharedTier("device", 2, ALIGNMENT, device="cpu")


def test_a_device_that_cannot_look_at_it_is_an_error_and_nothing_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(device: torch.device, memory: memoryview) -> torch.Tensor:
        raise RuntimeError("CUDA error: invalid argument\nand many more lines")

    closed: list[PinnedTier] = []

    def close(tier: PinnedTier) -> None:
        closed.append(tier)

    monkeypatch.setattr("tiers.shared_tier._seen_by", fail)
    monkeypatch.setattr(PinnedTier, "close", close)
    with pytest.raises(TierError, match=r"tier 'device': cannot share memory with cpu: CUDA error: invalid argument$"):
        SharedTier("device", 2, ALIGNMENT, device="cpu")
    assert len(closed) == 1


def test_a_device_that_fails_leaves_no_queue_behind(
    engine: TransferEngine, nvme: NVMeTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(device: torch.device) -> PlainCopier:
        raise RuntimeError("CUDA error")

    monkeypatch.setattr("tiers.open_link.open_copier", fail)
    monkeypatch.setattr(NVMeTier, "open_queue", lambda *_: pytest.fail("a queue with threads of its own"))
    there = SharedTier("device", NUM_BLOCKS, BLOCK, device="cpu")
    with pytest.raises(RuntimeError, match="CUDA error"):
        load(engine, nvme, there, [1], Priority.DEMAND)
    there.close()


@on_every_device
def test_a_drive_fills_it_and_is_filled_from_it(engine: TransferEngine, nvme: NVMeTier, device: str) -> None:
    """Into the very slots: there is neither a ring nor a copier that copies."""
    with closing(SharedTier("device", NUM_BLOCKS, BLOCK, device=device)) as there:
        engine.wait(load(engine, nvme, there, [1, 7], Priority.DEMAND))
        link = engine._link(nvme, there)
        assert isinstance(link, SharedFileLink)
        assert not isinstance(link, StagedFileLink)
        assert there.seen_slot(7).cpu().numpy().tobytes() == content(7, BLOCK)
        there.seen_slot(1).fill_(5)
        engine.wait(engine.submit(there, nvme, [Move(1, 3)], Priority.WRITE_BACK))
        found = bytearray(BLOCK)
        nvme.read(3, memoryview(found))
        assert found == bytes([5]) * BLOCK
        engine.close()


def test_nothing_is_copied_from_host_to_device(engine: TransferEngine) -> None:
    host, there = MemoryTier("host", 2, BLOCK), SharedTier("device", 2, BLOCK, device="cpu")
    for source, target in ((host, there), (there, host)):
        with pytest.raises(OffloadError, match="device and host are one memory, nothing is copied"):
            engine.submit(source, target, [Move(0, 0)], Priority.DEMAND)


class WatchedCopier(PlainCopier):
    """A device that says when it was asked, and by when what it was given has to be done."""

    def __init__(self) -> None:
        self.marks = 0
        self.reached: list[object] = []

    def mark(self) -> object:
        self.marks += 1
        return self.marks

    def reach(self, after: object) -> None:
        self.reached.append(after)


def test_every_request_waits_for_the_work_before_it(nvme: NVMeTier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the moment at which its transfer was submitted, however many chunks that has."""
    copier = WatchedCopier()
    monkeypatch.setattr("tiers.open_link.open_copier", lambda device: copier)
    there = SharedTier("device", NUM_BLOCKS, BLOCK, device="cpu")
    with closing(TransferEngine(TransferConfig(queue_depth=1, chunk_nbytes=BLOCK // 2))) as engine:
        for slot in range(3):
            engine.wait(load(engine, nvme, there, [slot], Priority.DEMAND))
        assert isinstance(engine._link(nvme, there), FileLink)
    assert copier.reached == [1, 1, 2, 2, 3, 3]


@pytest.mark.gpu
@needs_cuda
def test_a_slot_is_not_overwritten_before_the_gpu_has_read_it(engine: TransferEngine, nvme: NVMeTier) -> None:
    """And not stored before it has been written."""
    there = SharedTier("device", NUM_BLOCKS, BLOCK, device="cuda")
    engine.wait(load(engine, nvme, there, [1], Priority.DEMAND))
    torch.cuda._sleep(500_000_000)
    read = there.seen_slot(1).clone()
    transfer = engine.submit(nvme, there, [Move(7, 1)], Priority.PREFETCH)
    assert not engine.poll(transfer)
    engine.wait(transfer)
    assert read.cpu().numpy().tobytes() == content(1, BLOCK)
    torch.cuda._sleep(500_000_000)
    there.seen_slot(2).fill_(33)
    engine.wait(engine.submit(there, nvme, [Move(2, 5)], Priority.WRITE_BACK))
    found = bytearray(BLOCK)
    nvme.read(5, memoryview(found))
    assert found == bytes([33]) * BLOCK
    engine.close()
    there.close()
