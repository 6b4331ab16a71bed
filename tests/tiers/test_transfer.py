"""The engine between real memory and a real file: what moves, and what is counted."""

import threading
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiers.kit import content
from tests.tiers.watched import BLOCK, NUM_SLOTS, PAGE, WatchedTier, holds, load, start_and_hold
from tiers.errors import OffloadError
from tiers.memory_tier import MemoryTier
from tiers.nvme_tier import NVMeTier
from tiers.timeline import Timeline
from tiers.transfer import Move, Priority, TransferConfig, TransferEngine

# What moves.


def test_moves_blocks_both_ways(engine: TransferEngine, nvme: NVMeTier, host: MemoryTier) -> None:
    engine.wait(load(engine, nvme, host, [1, 2, 7], Priority.DEMAND))
    assert holds(host, [1, 2, 7])
    moves = [Move(7, 0), Move(1, 5), Move(2, 4)]
    engine.wait(engine.submit(host, nvme, moves, Priority.WRITE_BACK))
    for move in moves:
        found = bytearray(BLOCK)
        nvme.read(move.target_slot, memoryview(found))
        assert found == content(move.source_slot, BLOCK)


def test_moves_between_memories(engine: TransferEngine, host: MemoryTier) -> None:
    device = MemoryTier("device", 2, BLOCK)
    host.view(3)[:] = content(3, BLOCK)
    engine.wait(engine.submit(host, device, [Move(3, 1)], Priority.DEMAND))
    assert device.view(1) == content(3, BLOCK)


def test_neighbours_in_memory_move_together_and_apart(engine: TransferEngine, host: MemoryTier) -> None:
    """Runs that are broken in either memory, or go backwards."""
    for slot in range(NUM_SLOTS):
        host.view(slot)[:] = content(slot, BLOCK)
    device = MemoryTier("device", NUM_SLOTS, BLOCK)
    moves = [Move(0, 4), Move(1, 5), Move(2, 0), Move(4, 1), Move(6, 3), Move(5, 2)]
    engine.wait(engine.submit(host, device, moves, Priority.DEMAND))
    assert all(device.view(move.target_slot) == content(move.source_slot, BLOCK) for move in moves)
    stats = engine.links["host->device"]
    assert (stats.num_blocks, stats.nbytes) == (len(moves), len(moves) * BLOCK)


def test_moving_nothing_is_done_at_once(engine: TransferEngine, nvme: NVMeTier, host: MemoryTier) -> None:
    """And is no reason to fail for what else is on the way."""
    device = MemoryTier("device", 2, BLOCK)
    transfers = [
        load(engine, nvme, host, [0, 1], Priority.DEMAND),
        load(engine, nvme, host, [], Priority.DEMAND),
        load(engine, nvme, host, [2], Priority.DEMAND),
        engine.submit(host, device, [], Priority.DEMAND),
    ]
    for transfer in transfers:
        engine.wait(transfer)
    assert holds(host, [0, 1, 2])


def test_any_depth_and_any_chunk_will_do(nvme: NVMeTier, host: MemoryTier) -> None:
    """Random moves down and up again, against a dict of slots."""
    slots = st.lists(st.integers(0, NUM_SLOTS - 1), unique=True, min_size=1)
    model = {slot: content(slot, BLOCK) for slot in range(NUM_SLOTS)}

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
        with closing(TransferEngine(TransferConfig(depth, pages * PAGE))) as engine:
            for slot in down:
                model[slot] = content(seed + slot, BLOCK)
                host.view((slot + shift) % NUM_SLOTS)[:] = model[slot]
            moves = [Move((slot + shift) % NUM_SLOTS, slot) for slot in down]
            engine.wait(engine.submit(host, nvme, moves, Priority.WRITE_BACK))
            engine.wait(load(engine, nvme, host, up, Priority.DEMAND))
            assert all(host.view(slot) == model[slot] for slot in up)

    check()


def test_there_must_be_a_way(engine: TransferEngine, nvme: NVMeTier, tmp_path: Path) -> None:
    with closing(NVMeTier(tmp_path / "other", 1, BLOCK, name="other")) as other:
        with pytest.raises(OffloadError, match="no way to move blocks over nvme->other"):
            engine.submit(nvme, other, [Move(0, 0)], Priority.DEMAND)
        assert engine.links == {}


# What is counted.


def test_counts_what_every_link_did(engine: TransferEngine, nvme: NVMeTier, host: MemoryTier) -> None:
    device = MemoryTier("device", NUM_SLOTS, BLOCK)
    assert engine.links == {}
    engine.wait(load(engine, nvme, host, [0, 1, 5], Priority.DEMAND))
    engine.wait(load(engine, nvme, host, [6], Priority.PREFETCH))
    engine.wait(load(engine, host, device, [0, 1], Priority.DEMAND))
    engine.wait(load(engine, host, nvme, [0], Priority.WRITE_BACK))
    counters = {name: (stats.num_blocks, stats.nbytes) for name, stats in engine.links.items()}
    assert counters == {
        "nvme->host": (4, 4 * BLOCK),
        "host->device": (2, 2 * BLOCK),
        "host->nvme": (1, BLOCK),
    }


def test_counts_busy_and_stalled_seconds(slow: WatchedTier, host: MemoryTier) -> None:
    engine = TransferEngine()
    transfer = start_and_hold(engine, slow, host, [0])
    assert engine.stall_s == 0.0
    threading.Timer(0.0, slow.faulty.release).start()
    engine.wait(transfer)
    stall_s = engine.stall_s
    engine.wait(transfer)
    assert engine.stall_s == stall_s, "only waiting costs time"
    stats = engine.links["nvme->host"]
    engine.close()
    assert stats.busy_s > 0


def test_leaves_its_trace_in_the_timeline(nvme: NVMeTier, host: MemoryTier) -> None:
    timeline = Timeline()
    device = MemoryTier("device", NUM_SLOTS, BLOCK)
    with closing(TransferEngine(TransferConfig(queue_depth=1, chunk_nbytes=2 * BLOCK), timeline)) as engine:
        engine.wait(load(engine, nvme, host, [0, 1, 2], Priority.DEMAND))
        engine.wait(load(engine, host, device, [0], Priority.DEMAND))
    spans = [span for span in timeline.spans if span.row != "stall"]
    assert [(span.row, span.name, span.nbytes) for span in spans] == [
        ("nvme->host", "demand 3 blocks", 2 * BLOCK),
        ("nvme->host", "demand 3 blocks", BLOCK),
        ("host->device", "demand 1 blocks", BLOCK),
    ]
    assert all(span.start_s <= span.end_s for span in timeline.spans)
