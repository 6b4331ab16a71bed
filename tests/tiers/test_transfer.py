"""The engine between real memory and a real file: what overtakes what, what is counted, and how every wait ends."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiers.kit import content, open_fds
from tiers.errors import (
    CorruptBlockError,
    OffloadError,
    TransferCancelledError,
    TransferError,
)
from tiers.fault_injection import Fault, FaultPlan, FaultyTier
from tiers.io_queue import Completion, IOQueue, IORequest
from tiers.memory_tier import MemoryTier
from tiers.nvme_tier import NVMeTier
from tiers.tier import Tier
from tiers.timeline import Timeline
from tiers.transfer import Move, Priority, Transfer, TransferConfig, TransferEngine
from tiers.wrapper import TierWrapper

PAGE = 4096
BLOCK = 4 * PAGE
NUM_SLOTS = 12
ONE_AT_A_TIME = TransferConfig(queue_depth=1, chunk_nbytes=PAGE, stall_timeout_s=60)


class WatchedQueue(IOQueue):
    """Notes the file offsets of requests in the order in which they are started."""

    def __init__(self, inner: IOQueue, offsets: list[int], started: threading.Event) -> None:
        super().__init__(inner.depth)
        self._inner = inner
        self._offsets = offsets
        self._started = started

    def submit(self, requests: Sequence[IORequest]) -> None:
        self._inner.submit(requests)
        self.in_flight = self._inner.in_flight
        self._offsets += [request.offset for request in requests]
        self._started.set()

    def reap(self, minimum: int = 1, timeout_s: float | None = None) -> list[Completion]:
        done = self._inner.reap(minimum, timeout_s)
        self.in_flight = self._inner.in_flight
        return done

    def close(self) -> None:
        self._inner.close()


class WatchedTier(TierWrapper):
    """Tells which pages of a block have been asked for, in order."""

    def __init__(self, wrapped: FaultyTier) -> None:
        super().__init__(wrapped)
        self.faulty = wrapped
        self.offsets: list[int] = []
        self.started = threading.Event()

    @property
    def order(self) -> list[str]:
        """For example ``["3.0", "3.1"]``: the first two pages of slot 3."""
        return [f"{offset // BLOCK}.{offset % BLOCK // PAGE}" for offset in self.offsets]

    def _open_queue(self, depth: int) -> IOQueue:
        queue: IOQueue = self.faulty.open_queue(depth)
        return WatchedQueue(queue, self.offsets, self.started)


@pytest.fixture
def host() -> Iterator[MemoryTier]:
    with closing(MemoryTier("host", NUM_SLOTS, BLOCK)) as tier:
        yield tier


@pytest.fixture
def nvme(tmp_path: Path) -> Iterator[NVMeTier]:
    """Slot ``i`` holds ``content(i)``."""
    with closing(NVMeTier(tmp_path, NUM_SLOTS, BLOCK)) as tier:
        for slot in range(NUM_SLOTS):
            tier.write(slot, memoryview(content(slot, BLOCK)))
        yield tier


@pytest.fixture
def engine() -> Iterator[TransferEngine]:
    with closing(TransferEngine()) as engine:
        yield engine


@pytest.fixture
def slow(nvme: NVMeTier) -> WatchedTier:
    """A drive whose first read takes until ``slow.faulty.release()``."""
    return WatchedTier(FaultyTier(nvme, FaultPlan(reads={0: Fault.HANG})))


def broken(nvme: NVMeTier, **plan: object) -> FaultyTier:
    return FaultyTier(nvme, FaultPlan(**plan))  # type: ignore[arg-type]  # keywords of one call, passed on


def load(engine: TransferEngine, source: Tier, host: Tier, slots: Sequence[int], priority: Priority) -> Transfer:
    """Bring blocks to the slots of the same numbers."""
    return engine.submit(source, host, [Move(slot, slot) for slot in slots], priority)


def holds(host: MemoryTier, slots: Sequence[int]) -> bool:
    return all(host.view(slot) == content(slot, BLOCK) for slot in slots)


def start_and_hold(engine: TransferEngine, slow: WatchedTier, host: MemoryTier, slots: Sequence[int]) -> Transfer:
    """A prefetch whose first chunk is in flight and whose others wait, one at a time, behind it."""
    transfer = load(engine, slow, host, slots, Priority.PREFETCH)
    slow.started.wait()
    return transfer


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


# What goes wrong.


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
