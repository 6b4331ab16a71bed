"""What overtakes what, what is given up, and how the engine is closed."""

import threading
from contextlib import closing

import pytest

from tests.tiers.kit import content, open_fds
from tests.tiers.watched import BLOCK, NUM_SLOTS, ONE_AT_A_TIME, PAGE, WatchedTier, holds, load, start_and_hold
from tiers.errors import TransferCancelledError
from tiers.memory_tier import MemoryTier
from tiers.tier import Tier
from tiers.transfer import Move, Priority, Transfer, TransferConfig, TransferEngine

# What goes first.


def test_a_demand_overtakes_the_rest_of_a_prefetch(slow: WatchedTier, host: MemoryTier) -> None:
    with closing(TransferEngine(ONE_AT_A_TIME)) as engine:
        prefetch = start_and_hold(engine, slow, host, [3])
        demand = load(engine, slow, host, [8], Priority.DEMAND)
        slow.faulty.release()
        engine.wait(demand)
        engine.wait(prefetch)
    assert slow.order == ["3.0", "8.0", "8.1", "8.2", "8.3", "3.1", "3.2", "3.3"]
    assert holds(host, [3, 8])


def test_demand_then_prefetch_then_write_back(slow: WatchedTier, host: MemoryTier) -> None:
    """And among equals, first come, first served."""
    with closing(TransferEngine(TransferConfig(queue_depth=1))) as engine:
        start_and_hold(engine, slow, host, [0])
        kinds = [Priority.WRITE_BACK, Priority.PREFETCH, Priority.DEMAND] * 2
        transfers = [load(engine, slow, host, [2 + 2 * i], kind) for i, kind in enumerate(kinds[:5])]
        slow.faulty.release()
        for index in (2, 1, 4, 0, 3):  # in another order, waiting itself would change the order
            engine.wait(transfers[index])
    assert slow.order == ["0.0", "6.0", "4.0", "10.0", "2.0", "8.0"]


def test_a_prefetch_can_be_expedited(slow: WatchedTier, host: MemoryTier) -> None:
    """One that waits, and the rest of one that has begun, become demands."""
    with closing(TransferEngine(ONE_AT_A_TIME)) as engine:
        first = start_and_hold(engine, slow, host, [0])
        second = load(engine, slow, host, [1], Priority.PREFETCH)
        third = load(engine, slow, host, [2], Priority.PREFETCH)
        engine.expedite(third)
        engine.expedite(first)
        slow.faulty.release()
        engine.wait(second)
        engine.expedite(second)
    pages = range(4)
    assert slow.order == [
        "0.0",
        *(f"2.{page}" for page in pages),
        *(f"0.{page}" for page in pages[1:]),
        *(f"1.{page}" for page in pages),
    ]


def test_guesses_leave_room_for_a_demand(slow: WatchedTier, host: MemoryTier) -> None:
    """One request of them at a time here: the demand that comes later is wholly under way before their second."""
    config = TransferConfig(queue_depth=4, chunk_nbytes=PAGE, guess_depth=1)
    with closing(TransferEngine(config)) as engine:
        guess = load(engine, slow, host, [0], Priority.GUESS)
        slow.started.wait()
        demand = load(engine, slow, host, [1], Priority.DEMAND)
        slow.faulty.release()
        engine.wait(demand)
        engine.wait(guess)
    assert slow.order == ["0.0", *(f"1.{page}" for page in range(4)), *(f"0.{page}" for page in range(1, 4))]
    assert holds(host, [0, 1])


class GatedMemory(Tier):
    """Memory in which every block can be had only by itself, once the gate is open; notes which were asked for."""

    def __init__(self, memory: MemoryTier) -> None:
        self.name, self.num_slots, self.block_nbytes = memory.name, memory.num_slots, memory.block_nbytes
        self.memory = memory
        self.gate = threading.Event()
        self.asked = threading.Event()
        self.slots: list[int] = []

    def read(self, slot: int, buffer: memoryview) -> None:
        self.memory.read(slot, buffer)

    def write(self, slot: int, buffer: memoryview) -> None:
        self.memory.write(slot, buffer)

    def close(self) -> None:
        self.memory.close()

    def view(self, slot: int) -> memoryview:
        self.slots.append(slot)
        self.asked.set()
        self.gate.wait()
        return self.memory.view(slot)


def test_a_demand_overtakes_the_rest_of_a_prefetch_in_memory_too(host: MemoryTier) -> None:
    """And a prefetch that is cancelled half way ends with the block that is being copied."""
    source, device = GatedMemory(host), MemoryTier("device", NUM_SLOTS, BLOCK)
    for slot in range(NUM_SLOTS):
        host.view(slot)[:] = content(slot, BLOCK)
    with closing(TransferEngine(TransferConfig(memory_chunk_nbytes=2 * BLOCK))) as engine:
        prefetch = load(engine, source, device, range(5), Priority.PREFETCH)
        source.asked.wait()
        demand = load(engine, source, device, [8], Priority.DEMAND)
        given_up = load(engine, source, device, [9], Priority.PREFETCH)
        assert engine.cancel(given_up)
        source.gate.set()
        engine.wait(demand)
        engine.wait(prefetch)
        assert source.slots == [0, 1, 8, 2, 3, 4]
        assert holds(device, [0, 1, 2, 3, 4, 8])
        source.gate.clear()
        source.asked.clear()
        half = load(engine, source, device, [5, 6, 7], Priority.PREFETCH)
        source.asked.wait()
        assert not engine.cancel(half)
        source.gate.set()
        with pytest.raises(TransferCancelledError):
            engine.wait(half)
    assert source.slots[6:] == [5, 6]
    assert device.view(9) == bytes(BLOCK)


class ReleasingEngine(TransferEngine):
    """Lets the drive go on as soon as something has been expedited."""

    slow: WatchedTier

    def expedite(self, transfer: Transfer) -> None:
        super().expedite(transfer)
        self.slow.faulty.release()


def test_what_somebody_waits_for_is_expedited(slow: WatchedTier, host: MemoryTier) -> None:
    with closing(ReleasingEngine(ONE_AT_A_TIME)) as engine:
        engine.slow = slow
        first = start_and_hold(engine, slow, host, [0])
        second = load(engine, slow, host, [1], Priority.PREFETCH)
        engine.wait(second)
        engine.wait(first)
    assert slow.order == ["0.0", *(f"1.{page}" for page in range(4)), *(f"0.{page}" for page in range(1, 4))]


# What is given up.


def test_what_has_not_begun_can_be_cancelled(slow: WatchedTier, host: MemoryTier) -> None:
    with closing(TransferEngine(ONE_AT_A_TIME)) as engine:
        first = start_and_hold(engine, slow, host, [0])
        second = load(engine, slow, host, [1], Priority.PREFETCH)
        assert engine.cancel(second), "nothing of it is in flight"
        assert engine.poll(second)
        with pytest.raises(TransferCancelledError, match="nvme->host: transfer cancelled"):
            engine.wait(second)
        assert not engine.cancel(second), "once is enough"
        slow.faulty.release()
        engine.wait(first)
        assert not engine.cancel(first), "it has arrived"
    assert slow.order == ["0.0", "0.1", "0.2", "0.3"]
    assert host.view(1) == bytes(BLOCK)
    assert holds(host, [0])


def test_what_has_begun_ends_with_what_is_in_flight(slow: WatchedTier, host: MemoryTier) -> None:
    with closing(TransferEngine(ONE_AT_A_TIME)) as engine:
        transfer = start_and_hold(engine, slow, host, [0])
        assert not engine.cancel(transfer), "the drive still writes into its slot"
        assert not engine.poll(transfer)
        slow.faulty.release()
        with pytest.raises(TransferCancelledError):
            engine.wait(transfer)
        assert engine.poll(transfer)
        engine.wait(load(engine, slow, host, [1], Priority.DEMAND))
    assert slow.order == ["0.0", "1.0", "1.1", "1.2", "1.3"]


def test_close_cancels_what_waits_and_finishes_what_has_begun(slow: WatchedTier, host: MemoryTier) -> None:
    threads, fds = threading.enumerate(), open_fds()
    engine = TransferEngine(TransferConfig(queue_depth=1))
    device = MemoryTier("device", 1, BLOCK)
    engine.wait(engine.submit(host, device, [Move(0, 0)], Priority.DEMAND))
    first = start_and_hold(engine, slow, host, [0])
    waiting = [load(engine, slow, host, [slot], priority) for slot, priority in enumerate(Priority, 4)]
    release = threading.Timer(0.0, slow.faulty.release)
    release.start()
    engine.close()
    release.join()
    engine.wait(first)
    assert holds(host, [0])
    for transfer in waiting:
        assert engine.poll(transfer)
        if transfer.error:
            with pytest.raises(TransferCancelledError):
                engine.wait(transfer)
    assert not engine.cancel(first)
    engine.expedite(first)
    engine.close()
    assert (threading.enumerate(), open_fds()) == (threads, fds)
