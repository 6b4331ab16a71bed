"""Transfers beside the work of a CUDA device: slots that it still reads or writes, and many small copies at once."""

from contextlib import closing

import numpy as np
import pytest
import torch

from tests.tiers.devices import bytes_of, device_tier, holds, host_tier, needs_cuda
from tests.tiers.kit import content
from tests.tiers.watched import BLOCK, NUM_SLOTS, load
from tiers.device_tier import DeviceTier
from tiers.memory_tier import MemoryTier
from tiers.nvme_tier import NVMeTier
from tiers.pinned_tier import PinnedTier
from tiers.transfer import Move, Priority, TransferConfig, TransferEngine

pytestmark = [pytest.mark.gpu, needs_cuda]

KIB = 1024


def keep_busy() -> None:
    """Give the device some tenths of a second of work, after which it does what it is given next."""
    torch.cuda._sleep(500_000_000)


@pytest.mark.parametrize("source", ["host", "nvme"])
def test_a_slot_is_not_overwritten_before_it_has_been_read(engine: TransferEngine, nvme: NVMeTier, source: str) -> None:
    """The host gives a read of the slot to the device and asks at once for something else to be put there."""
    there = device_tier("cuda")
    tier: MemoryTier | NVMeTier = host_tier("cuda") if source == "host" else nvme
    engine.wait(load(engine, tier, there, [1, 2], Priority.DEMAND))
    keep_busy()
    read = there.buffer.clone()
    transfer = engine.submit(tier, there, [Move(7, 1), Move(8, 2)], Priority.PREFETCH)
    assert not engine.poll(transfer)
    engine.wait(transfer)
    assert read.cpu().numpy().tobytes()[BLOCK : 3 * BLOCK] == content(1, BLOCK) + content(2, BLOCK)
    assert holds(there, {1: 7, 2: 8})


@pytest.mark.parametrize("target", ["host", "nvme"])
def test_a_slot_is_not_evicted_before_it_has_been_written(engine: TransferEngine, nvme: NVMeTier, target: str) -> None:
    there, host = device_tier("cuda"), host_tier("cuda")
    tier: MemoryTier | NVMeTier = host if target == "host" else nvme
    keep_busy()
    there.tensor(3).fill_(33)
    engine.wait(engine.submit(there, tier, [Move(3, 5)], Priority.WRITE_BACK))
    found = bytearray(BLOCK)
    tier.read(5, memoryview(found))
    assert found == bytes([33]) * BLOCK


def test_what_is_computed_after_the_wait_sees_what_has_arrived(engine: TransferEngine) -> None:
    """On whatever stream: here is none that would have to be told."""
    host, there = host_tier("cuda"), device_tier("cuda")
    for slot in range(NUM_SLOTS):
        engine.wait(load(engine, host, there, [slot], Priority.DEMAND))
        with torch.cuda.stream(torch.cuda.Stream()):
            assert bytes_of(there, slot) == content(slot, BLOCK)


@pytest.mark.parametrize("nbytes", [4 * KIB, 20 * KIB, 64 * KIB])
@pytest.mark.parametrize("chunk_nbytes", [256 * KIB, 8 * KIB * KIB])
def test_scattered_blocks_arrive_as_they_left(nbytes: int, chunk_nbytes: int) -> None:
    """By the kernel, which must have proved itself here."""
    from tiers.cuda_copier import _scatter_kernel

    num_slots = 300
    host, there = PinnedTier("host", num_slots, nbytes), DeviceTier("device", num_slots, nbytes, "cuda")
    back = PinnedTier("back", num_slots, nbytes)
    filler = np.random.default_rng(0).integers(0, 256, host.nbytes, np.uint8)
    host.buffer[:] = memoryview(filler)  # type: ignore[arg-type]  # an array lends its bytes
    order = np.random.default_rng(1).permutation(num_slots).tolist()
    with closing(TransferEngine(TransferConfig(device_chunk_nbytes=chunk_nbytes))) as engine:
        down = [Move(slot, place) for slot, place in enumerate(order)]
        engine.wait(engine.submit(host, there, down, Priority.DEMAND))
        found = there.buffer.cpu().numpy().reshape(num_slots, nbytes)
        assert (found[order] == filler.reshape(num_slots, nbytes)).all()
        engine.wait(engine.submit(there, back, [Move(place, slot) for slot, place in down], Priority.WRITE_BACK))
        assert not engine.notes
    scatter = _scatter_kernel(there.device)
    assert scatter.value is not None, scatter.flaw
    assert (np.frombuffer(back.buffer, np.uint8) == filler).all()
    host.close()


def test_pageable_memory_is_copied_too(engine: TransferEngine) -> None:
    """By the processor's help, block by block: no kernel sees it."""
    host, there = MemoryTier("host", 64, 4 * KIB), device_tier("cuda", 64, 4 * KIB)
    for slot in range(64):
        host.view(slot)[:] = content(slot, 4 * KIB)
    engine.wait(engine.submit(host, there, [Move(slot, 63 - slot) for slot in range(64)], Priority.DEMAND))
    assert holds(there, {63 - slot: slot for slot in range(64)})


def test_compute_and_copies_at_the_same_time(engine: TransferEngine) -> None:
    """Many rounds of: read a slot, replace it, without ever waiting for the device in between."""
    host, there = host_tier("cuda"), device_tier("cuda")
    sums = []
    for turn in range(60):
        slot, source = turn % 3, turn % NUM_SLOTS
        engine.wait(engine.submit(host, there, [Move(source, slot)], Priority.DEMAND))
        torch.cuda._sleep(300_000)
        sums.append(there.tensor(slot).sum(dtype=torch.int64))
    expected = [sum(content(turn % NUM_SLOTS, BLOCK)) for turn in range(60)]
    assert torch.stack(sums).tolist() == expected
