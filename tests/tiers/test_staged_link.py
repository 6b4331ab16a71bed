"""Between a drive and a device, through the ring of host memory: what arrives, and what is noticed on the way."""

from contextlib import closing

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiers.devices import bytes_of, device_tier, holds, on_every_device
from tests.tiers.kit import content
from tests.tiers.watched import BLOCK, NUM_SLOTS, PAGE, WatchedTier, broken, load
from tiers.device_tier import DeviceTier
from tiers.errors import CorruptBlockError, OffloadError, TransferCancelledError, TransferError
from tiers.fault_injection import Fault
from tiers.gds import find_gds
from tiers.nvme_tier import NVMeTier
from tiers.open_link import _device_reader
from tiers.staged_link import StagedFileLink
from tiers.transfer import Move, Priority, TransferConfig, TransferEngine

ONE_AT_A_TIME = TransferConfig(queue_depth=1, chunk_nbytes=PAGE)


@on_every_device
def test_moves_blocks_both_ways(engine: TransferEngine, nvme: NVMeTier, device: str) -> None:
    there = device_tier(device)
    engine.wait(load(engine, nvme, there, [1, 2, 7], Priority.DEMAND))
    assert holds(there, {1: 1, 2: 2, 7: 7})
    moves = [Move(7, 0), Move(1, 5), Move(2, 4)]
    engine.wait(engine.submit(there, nvme, moves, Priority.WRITE_BACK))
    for source_slot, target_slot in moves:
        found = bytearray(BLOCK)
        nvme.read(target_slot, memoryview(found))
        assert found == content(source_slot, BLOCK)
    counters = {name: (stats.num_blocks, stats.nbytes) for name, stats in engine.links.items()}
    assert counters == {"nvme->device": (3, 3 * BLOCK), "device->nvme": (3, 3 * BLOCK)}


@on_every_device
def test_any_depth_and_any_chunk_will_do(nvme: NVMeTier, device: str) -> None:
    """Random moves down and up again, against a dict of slots."""
    slots = st.lists(st.integers(0, NUM_SLOTS - 1), unique=True, min_size=1)
    model = {slot: content(slot, BLOCK) for slot in range(NUM_SLOTS)}
    there = device_tier(device)

    @settings(max_examples=15, deadline=None)
    @given(
        depth=st.integers(1, 5),
        pages=st.integers(1, 12),
        down=slots,
        up=slots,
        shift=st.integers(0, NUM_SLOTS - 1),
        seed=st.integers(0, 2**32),
    )
    def check(depth: int, pages: int, down: list[int], up: list[int], shift: int, seed: int) -> None:
        config = TransferConfig(queue_depth=depth, chunk_nbytes=pages * PAGE)
        with closing(TransferEngine(config)) as engine:
            for slot in down:
                model[slot] = content(seed + slot, BLOCK)
                there.write((slot + shift) % NUM_SLOTS, memoryview(model[slot]))
            moves = [Move((slot + shift) % NUM_SLOTS, slot) for slot in down]
            engine.wait(engine.submit(there, nvme, moves, Priority.WRITE_BACK))
            engine.wait(load(engine, nvme, there, up, Priority.DEMAND))
            assert all(bytes_of(there, slot) == model[slot] for slot in up)

    check()


@on_every_device
def test_many_transfers_share_the_ring(nvme: NVMeTier, device: str) -> None:
    there = device_tier(device)
    with closing(TransferEngine(TransferConfig(queue_depth=2, chunk_nbytes=PAGE))) as engine:
        transfers = [load(engine, nvme, there, [slot], list(Priority)[slot % 3]) for slot in range(NUM_SLOTS)]
        backs = [engine.submit(there, nvme, [], Priority.WRITE_BACK) for _ in range(2)]
        for transfer in reversed(transfers + backs):
            engine.wait(transfer)
    assert holds(there, {slot: slot for slot in range(NUM_SLOTS)})


# What goes wrong.


@on_every_device
@pytest.mark.parametrize("pages", [1, 3, 128])
def test_a_wrong_bit_is_an_error(nvme: NVMeTier, device: str, pages: int) -> None:
    """Wherever the chunks end; the blocks beside it and those that come later are none the worse for it."""
    tier = broken(nvme, reads={0: Fault.BIT_FLIP})
    there = device_tier(device)
    with closing(TransferEngine(TransferConfig(chunk_nbytes=pages * PAGE))) as engine:
        with pytest.raises(CorruptBlockError, match="slot 3 of"):
            engine.wait(load(engine, tier, there, [3], Priority.DEMAND))
        engine.wait(load(engine, tier, there, [3, 4], Priority.DEMAND))
    assert holds(there, {3: 3, 4: 4})


@on_every_device
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault.IO_ERROR, "nvme->device: Input/output error"),
        (Fault.SHORT, "nvme->device: 8192 of 16384 bytes moved at offset 32768"),
    ],
)
def test_a_read_that_fails_is_an_error_once(nvme: NVMeTier, device: str, fault: Fault, message: str) -> None:
    tier = broken(nvme, reads={0: fault})
    there = device_tier(device)
    with closing(TransferEngine()) as engine:
        transfer = load(engine, tier, there, [2], Priority.DEMAND)
        for _ in range(2):
            with pytest.raises(TransferError, match=message):
                engine.wait(transfer)
        assert bytes_of(there, 2) == bytes(BLOCK), "nothing of it was copied"
        engine.wait(load(engine, tier, there, [2], Priority.DEMAND))
    assert holds(there, {2: 2})


@on_every_device
def test_a_write_that_fails_is_an_error(nvme: NVMeTier, device: str) -> None:
    """Whoever reads the slot then learns of it, and is not given what was there before."""
    tier = broken(nvme, writes={0: Fault.NO_SPACE})
    there = device_tier(device)
    with closing(TransferEngine()) as engine:
        with pytest.raises(TransferError, match="device->nvme: No space left on device"):
            engine.wait(engine.submit(there, tier, [Move(0, 2)], Priority.WRITE_BACK))
        with pytest.raises(CorruptBlockError):
            engine.wait(load(engine, tier, there, [2], Priority.DEMAND))
        engine.wait(engine.submit(there, tier, [Move(0, 2)], Priority.WRITE_BACK))
        engine.wait(load(engine, tier, there, [2], Priority.DEMAND))


@on_every_device
def test_a_chunk_that_fails_ends_its_transfer_only(nvme: NVMeTier, device: str) -> None:
    """And gives back its part of the ring, however often that happens."""
    there = device_tier(device)
    tier = broken(nvme, reads=dict.fromkeys(range(0, 40, 2), Fault.IO_ERROR))
    with closing(TransferEngine(TransferConfig(queue_depth=2, chunk_nbytes=PAGE))) as engine:
        for slot in range(8):
            with pytest.raises(TransferError, match="Input/output error"):
                engine.wait(load(engine, tier, there, [slot], Priority.DEMAND))
    with closing(TransferEngine()) as engine:
        engine.wait(load(engine, nvme, there, [5], Priority.DEMAND))
    assert bytes_of(there, 5) == content(5, BLOCK)


def test_only_files_and_memory_are_within_reach(engine: TransferEngine) -> None:
    class Elsewhere(DeviceTier):
        flat = None  # type: ignore[assignment]  # no memory that can be had

    with pytest.raises(OffloadError, match="no way to move blocks over device->device"):
        engine.submit(Elsewhere("device", 1, BLOCK, "cpu"), device_tier("cpu"), [Move(0, 0)], Priority.DEMAND)


# What goes first, and what is given up.


@on_every_device
def test_a_demand_overtakes_the_rest_of_a_prefetch(slow: WatchedTier, device: str) -> None:
    there = device_tier(device)
    with closing(TransferEngine(ONE_AT_A_TIME)) as engine:
        prefetch = load(engine, slow, there, [3], Priority.PREFETCH)
        slow.started.wait()
        demand = load(engine, slow, there, [8], Priority.DEMAND)
        slow.faulty.release()
        engine.wait(demand)
        engine.wait(prefetch)
    assert slow.order == ["3.0", "8.0", "8.1", "8.2", "8.3", "3.1", "3.2", "3.3"]
    assert holds(there, {3: 3, 8: 8})


@on_every_device
def test_what_has_begun_ends_with_what_is_in_flight(slow: WatchedTier, device: str) -> None:
    there = device_tier(device)
    with closing(TransferEngine(ONE_AT_A_TIME)) as engine:
        transfer = load(engine, slow, there, [0], Priority.PREFETCH)
        slow.started.wait()
        waiting = load(engine, slow, there, [1], Priority.PREFETCH)
        assert engine.cancel(waiting), "nothing of it is in flight"
        assert not engine.cancel(transfer), "the drive still writes into the ring for it"
        slow.faulty.release()
        with pytest.raises(TransferCancelledError):
            engine.wait(transfer)
        engine.wait(load(engine, slow, there, [2], Priority.DEMAND))
    assert bytes_of(there, 1) == bytes(BLOCK)
    assert bytes_of(there, 2) == content(2, BLOCK)


def test_a_slower_way_is_said(nvme: NVMeTier) -> None:
    """Buffers that are not page-locked, since there is nothing to lock them for."""
    with closing(TransferEngine()) as engine:
        engine.wait(load(engine, nvme, device_tier("cpu"), [1], Priority.DEMAND))
        assert engine.notes == ["nvme->device: its buffers are not pinned: cpu is no CUDA device of this machine"]


def test_the_way_to_a_gpu_is_said(nvme: NVMeTier) -> None:
    """Where the drive does not write into its memory: decided without one."""
    kind, queue, way = _device_reader(nvme, torch.device("cuda"), TransferConfig())
    queue.close()
    if not find_gds().is_real:
        assert (kind, way) == (StagedFileLink, f"through buffers in host memory: {find_gds().note}")
    kind, queue, way = _device_reader(nvme, torch.device("cuda"), TransferConfig(files_to_device="staged"))
    queue.close()
    assert (kind, way) == (StagedFileLink, "")
