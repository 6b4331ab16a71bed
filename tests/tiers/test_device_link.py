"""Copies between host memory and a device, by way of the engine."""

from contextlib import closing
from threading import Event

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiers.devices import bytes_of, device_tier, holds, host_tier, on_every_device
from tests.tiers.kit import content
from tests.tiers.watched import BLOCK, NUM_SLOTS, PAGE, load
from tiers.device_tier import DeviceTier
from tiers.errors import TransferCancelledError, TransferError
from tiers.memory_tier import MemoryTier
from tiers.pinned_tier import PinnedTier
from tiers.timeline import Timeline
from tiers.transfer import Move, Priority, TransferConfig, TransferEngine
from tiers.wrapper import TierWrapper

ONE_AT_A_TIME = TransferConfig(device_chunk_nbytes=2 * BLOCK, device_depth=1)


@on_every_device
def test_moves_blocks_both_ways(engine: TransferEngine, device: str) -> None:
    host, there = host_tier(device), device_tier(device)
    engine.wait(engine.submit(host, there, [Move(3, 0), Move(4, 1), Move(7, 5)], Priority.DEMAND))
    assert holds(there, {0: 3, 1: 4, 5: 7})
    engine.wait(engine.submit(there, host, [Move(1, 9), Move(5, 8), Move(0, 0)], Priority.WRITE_BACK))
    assert [host.view(slot) == content(block, BLOCK) for slot, block in [(9, 4), (8, 7), (0, 3)]] == [True] * 3
    counters = {name: (stats.num_blocks, stats.nbytes) for name, stats in engine.links.items()}
    assert counters == {"host->device": (3, 3 * BLOCK), "device->host": (3, 3 * BLOCK)}


@on_every_device
def test_moves_between_devices(engine: TransferEngine, device: str) -> None:
    first, second = device_tier(device), DeviceTier("other", 2, BLOCK, device)
    first.tensor(3).fill_(3)
    engine.wait(engine.submit(first, second, [Move(3, 1)], Priority.DEMAND))
    assert bytes_of(second, 1) == bytes([3]) * BLOCK


@on_every_device
def test_any_moves_and_any_chunk_will_do(device: str) -> None:
    """Enough blocks that they are not all neighbours, down and up again, against a dict."""
    num_slots = 40
    slots = st.lists(st.integers(0, num_slots - 1), unique=True)

    @settings(max_examples=20, deadline=None)
    @given(sources=slots, targets=slots, pages=st.integers(1, 200), depth=st.integers(1, 4))
    def check(sources: list[int], targets: list[int], pages: int, depth: int) -> None:
        host, there = host_tier(device, num_slots, PAGE), device_tier(device, num_slots, PAGE)
        moves = [Move(*pair) for pair in zip(sources, targets, strict=False)]
        config = TransferConfig(device_chunk_nbytes=pages * 512, device_depth=depth)
        with closing(TransferEngine(config)) as engine:
            engine.wait(engine.submit(host, there, moves, Priority.DEMAND))
            assert holds(there, {target: source for source, target in moves})
            back = [Move(target, num_slots - 1 - source) for source, target in moves]
            engine.wait(engine.submit(there, host, back, Priority.WRITE_BACK))
        for source, _ in moves:
            assert host.view(num_slots - 1 - source) == content(source, PAGE)
        host.close()

    check()


@on_every_device
def test_slots_may_have_sizes_of_their_own(engine: TransferEngine, device: str) -> None:
    sizes = [PAGE, 3 * PAGE, 2 * PAGE]
    host, there = PinnedTier.of_sizes("host", sizes, device=device), DeviceTier.of_sizes("resident", sizes, device)
    staging = DeviceTier("staging", 3, 3 * PAGE, device)
    for slot, nbytes in enumerate(sizes):
        host.view(slot)[:] = content(slot, nbytes)
    for target in (there, staging):
        engine.wait(engine.submit(host, target, [Move(slot, slot) for slot in range(3)], Priority.DEMAND))
        assert [bytes_of(target, slot)[:nbytes] for slot, nbytes in enumerate(sizes)] == [
            content(slot, nbytes) for slot, nbytes in enumerate(sizes)
        ]


@on_every_device
def test_moving_nothing_is_done_at_once(engine: TransferEngine, device: str) -> None:
    engine.wait(engine.submit(host_tier(device), device_tier(device), [], Priority.DEMAND))


@on_every_device
def test_a_copy_that_cannot_be_ends_its_transfer_only(engine: TransferEngine, device: str) -> None:
    host, there, small = host_tier(device), device_tier(device), DeviceTier("device", 4, PAGE, device)
    for target, moves in [(there, [Move(0, 99)]), (there, [Move(99, 0)]), (small, [Move(0, 0)])]:
        with pytest.raises(TransferError, match="host->device: "):
            engine.wait(engine.submit(host, target, [Move(1, 1), *moves], Priority.DEMAND))
    engine.wait(load(engine, host, there, [2], Priority.DEMAND))
    assert holds(there, {2: 2})


@on_every_device
def test_many_blocks_are_planned_some_at_a_time(engine: TransferEngine, device: str) -> None:
    """What is wrong with a later one ends the transfer, and what was sound of it has been moved."""
    num_slots = 2500
    host, there = PinnedTier("host", num_slots, 64, device=device), device_tier(device, num_slots, 64)
    numbers = np.frombuffer(host.buffer, np.int64)
    numbers[:] = np.arange(len(numbers))
    moves = [Move(slot, num_slots - 1 - slot) for slot in range(num_slots)]
    with pytest.raises(TransferError, match="host->device: no slot 2500"):
        engine.wait(engine.submit(host, there, [*moves[:2200], Move(0, 2500)], Priority.DEMAND))
    there.buffer.zero_()
    engine.wait(engine.submit(host, there, moves, Priority.DEMAND))
    found = there.buffer.cpu().numpy().view(np.int64).reshape(num_slots, 8)
    assert (found[::-1].ravel() == numbers).all()


class GatedMemory(TierWrapper):
    """Memory that can be had only once the gate is open."""

    def __init__(self, wrapped: MemoryTier) -> None:
        self.inner = wrapped
        self.gate = Event()
        self.asked = Event()
        super().__init__(wrapped)

    def _flat(self) -> memoryview:
        self.asked.set()
        self.gate.wait()
        return self.inner.flat()


@on_every_device
def test_a_demand_overtakes_the_rest_of_a_prefetch(device: str) -> None:
    """And a prefetch that is cancelled half way ends with what is being copied."""
    host, there, timeline = host_tier(device), device_tier(device), Timeline()
    gated = GatedMemory(host)
    with closing(TransferEngine(ONE_AT_A_TIME, timeline)) as engine:
        prefetch = load(engine, gated, there, range(5), Priority.PREFETCH)
        gated.asked.wait()
        demand = load(engine, gated, there, [8], Priority.DEMAND)
        given_up = load(engine, gated, there, [9], Priority.PREFETCH)
        assert engine.cancel(given_up)
        gated.gate.set()
        engine.wait(demand)
        engine.wait(prefetch)
        order = [(span.name, span.nbytes // BLOCK) for span in timeline.spans if span.row != "stall"]
        assert order[0] == ("prefetch 5 blocks", 2)
        assert order[1] == ("demand 1 blocks", 1)
        assert sum(blocks for _, blocks in order) == 6
        assert holds(there, {slot: slot for slot in [0, 1, 2, 3, 4, 8]})
        gated.gate.clear()
        gated.asked.clear()
        half = load(engine, gated, there, [5, 6, 7], Priority.PREFETCH)
        gated.asked.wait()
        assert not engine.cancel(half)
        gated.gate.set()
        with pytest.raises(TransferCancelledError):
            engine.wait(half)
    assert holds(there, {slot: slot for slot in [0, 1, 2, 3, 4, 5, 6, 8]})


class BrokenMemory(TierWrapper):
    """Memory that is gone when it is wanted, the first time."""

    is_broken = True

    def _flat(self) -> memoryview:
        if self.is_broken:
            self.is_broken = False
            raise RuntimeError("nobody expects this")
        memory: memoryview = self.wrapped.flat()  # type: ignore[attr-defined]  # of the tier that it wraps
        return memory


@on_every_device
def test_a_device_that_breaks_down_ends_what_it_had(device: str) -> None:
    host, there = BrokenMemory(host_tier(device)), device_tier(device)
    with closing(TransferEngine()) as engine:
        with pytest.raises(TransferError, match="host->device: nobody expects this"):
            engine.wait(load(engine, host, there, [0], Priority.DEMAND))
        engine.wait(load(engine, host, there, [1], Priority.DEMAND))
    assert holds(there, {1: 1})


def test_the_processor_needs_no_pinned_memory(engine: TransferEngine) -> None:
    host, there = MemoryTier("host", NUM_SLOTS, BLOCK), device_tier("cpu")
    host.view(3)[:] = content(3, BLOCK)
    engine.wait(load(engine, host, there, [3], Priority.DEMAND))
    assert holds(there, {3: 3})
    assert torch.equal(there.buffer[: 3 * BLOCK], torch.zeros(3 * BLOCK, dtype=torch.uint8))


@on_every_device
def test_more_blocks_than_are_planned_together(device: str) -> None:
    num_slots, nbytes = 6000, 64
    host, there = PinnedTier("host", num_slots, nbytes, device=device), device_tier(device, num_slots, nbytes)
    filler = np.random.default_rng(0).integers(0, 256, num_slots * nbytes, np.uint8)
    np.frombuffer(host.buffer, np.uint8)[: filler.size] = filler
    places = np.random.default_rng(1).permutation(num_slots)
    with closing(TransferEngine()) as engine:
        moves = [Move(slot, place) for slot, place in enumerate(places.tolist())]
        engine.wait(engine.submit(host, there, moves, Priority.DEMAND))
    found = there.buffer[: filler.size].cpu().numpy().reshape(num_slots, nbytes)
    assert (found[places] == filler.reshape(num_slots, nbytes)).all()
    host.close()
