"""Virtual time: who waits for whom, and for how long."""

import pytest

from simulators.modelled_link import VirtualClock
from simulators.modelled_mover import EmptyTier, ModelledMover, Route
from tiers.chunks import Move
from tiers.errors import TransferCancelledError
from tiers.link import Priority

DEVICE, HOST, NVME = (EmptyTier(name, 8, 10) for name in ("device", "host", "nvme"))
MOVES = [Move(0, 0), Move(1, 1)]


def make_mover() -> ModelledMover:
    """A tenth of a second a byte; the drive's two directions share a wire."""
    routes = {
        "nvme->device": Route(lambda _blocks, nbytes: nbytes / 10, "nvme"),
        "device->nvme": Route(lambda _blocks, nbytes: nbytes / 10, "nvme"),
        "host->device": Route(lambda blocks, nbytes: blocks + nbytes / 10, "host"),
    }
    return ModelledMover(VirtualClock(), routes)


def test_a_wait_takes_as_long_as_the_transfer() -> None:
    mover = make_mover()
    transfer = mover.submit(HOST, DEVICE, MOVES, Priority.DEMAND)
    mover.clock.advance(1.5)
    assert not transfer.is_done
    mover.wait(transfer)
    assert (mover.clock.now_s, mover.stall_s) == (4.0, 2.5)
    mover.wait(transfer)
    assert mover.stall_s == 2.5
    use = mover.links["host->device"]
    assert (use.nbytes, use.num_blocks, use.busy_s) == (20, 2, 4.0)


def test_what_is_computed_meanwhile_hides_it() -> None:
    mover = make_mover()
    transfer = mover.submit(HOST, DEVICE, MOVES, Priority.PREFETCH)
    mover.clock.advance(4.0)
    assert transfer.is_done
    mover.wait(transfer)
    assert mover.stall_s == 0


def test_links_work_side_by_side_and_the_directions_of_a_drive_do_not() -> None:
    mover = make_mover()
    write = mover.submit(DEVICE, NVME, MOVES, Priority.WRITE_BACK)
    other = mover.submit(HOST, DEVICE, MOVES, Priority.DEMAND)
    second = mover.submit(DEVICE, NVME, MOVES, Priority.WRITE_BACK)
    mover.clock.advance(2.0)
    assert (write.is_done, other.is_done, second.is_done) == (True, False, False)
    mover.clock.advance(2.0)
    assert other.is_done
    assert second.is_done


def test_a_demand_overtakes_what_has_begun() -> None:
    """The write-back of two seconds is half done; it goes on when the demand is there."""
    mover = make_mover()
    write = mover.submit(DEVICE, NVME, MOVES, Priority.WRITE_BACK)
    mover.clock.advance(1.0)
    demand = mover.submit(NVME, DEVICE, MOVES, Priority.DEMAND)
    mover.wait(demand)
    assert (mover.clock.now_s, write.is_done) == (3.0, False)
    mover.clock.advance(1.0)
    assert write.is_done


def test_whom_somebody_waits_for_becomes_a_demand() -> None:
    mover = make_mover()
    first = mover.submit(NVME, DEVICE, MOVES, Priority.PREFETCH)
    guess = mover.submit(NVME, DEVICE, MOVES, Priority.GUESS)
    mover.wait(guess)
    assert (mover.clock.now_s, first.is_done, guess.priority) == (2.0, False, Priority.DEMAND)


def test_what_is_cancelled_takes_no_time() -> None:
    mover = make_mover()
    guess = mover.submit(NVME, DEVICE, MOVES, Priority.GUESS)
    assert mover.cancel(guess)
    with pytest.raises(TransferCancelledError):
        mover.wait(guess)
    done = mover.submit(NVME, DEVICE, MOVES, Priority.DEMAND)
    mover.wait(done)
    assert not mover.cancel(done)
    assert mover.clock.now_s == 2.0


def test_a_modelled_tier_holds_no_bytes() -> None:
    for call in (DEVICE.read, DEVICE.write):
        with pytest.raises(NotImplementedError):
            call(0, memoryview(bytearray(10)))
    DEVICE.close()


def test_generating_shares_a_memory_with_what_is_read() -> None:
    """Tokens want all of it and the drive a quarter more: both get four fifths until the drive is done."""
    routes = {"nvme->device": Route(lambda _blocks, nbytes: nbytes / 10, "nvme", {"memory": 1.0})}
    mover = ModelledMover(VirtualClock(), routes, {"memory": 40.0}, decoding={"memory": 40.0})
    assert mover.decode(3.0) == 3.0, "alone nothing slows it down"
    transfer = mover.submit(NVME, DEVICE, MOVES, Priority.PREFETCH)
    assert mover.decode(4.0) == pytest.approx(2.5 + 2.0)
    assert transfer.is_done
    assert mover.stall_s == 0
    assert mover.decode(0.0) == 0


def test_a_device_with_a_memory_of_its_own_shares_nothing() -> None:
    mover = make_mover()
    mover.submit(NVME, DEVICE, MOVES, Priority.PREFETCH)
    assert mover.decode(4.0) == 4.0
    assert mover.clock.now_s == 4.0
