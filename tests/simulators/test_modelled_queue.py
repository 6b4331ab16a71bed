"""A modelled link against what can be worked out by hand."""

import pytest

from simulators.modelled_link import VirtualClock
from simulators.modelled_queue import ModelledQueue, QueueCosts
from tiers.errors import TransferCancelledError
from tiers.link import Priority

MIB = 2**20
RATE = 1e9


def open_queue(**costs: float) -> tuple[VirtualClock, ModelledQueue]:
    clock = VirtualClock()
    return clock, ModelledQueue(clock, QueueCosts(lambda _: RATE, **costs))  # type: ignore[arg-type]  # depths are whole


def test_a_transfer_takes_its_bytes_and_the_hand_overs() -> None:
    clock, link = open_queue(transfer_s=1e-4, request_s=1e-5, byte_s=1e-11)
    link.finish(link.submit([MIB], Priority.DEMAND))
    assert clock.now_s == pytest.approx(1e-4 + MIB / RATE + 1e-5 + MIB * 1e-11)
    assert link.use.nbytes == MIB


def test_a_request_alone_takes_the_latency() -> None:
    clock, link = open_queue(latency_s=1e-2)
    link.finish(link.submit([4096], Priority.DEMAND))
    assert clock.now_s == pytest.approx(1e-2)


def test_what_sets_out_together_ends_together_and_is_then_looked_at_in_turn() -> None:
    clock, link = open_queue(request_s=1e-3)
    first, second = link.submit([MIB], Priority.DEMAND), link.submit([MIB], Priority.DEMAND)
    link.finish(first)
    assert clock.now_s == pytest.approx(2 * MIB / RATE + 1e-3)
    link.finish(second)
    assert clock.now_s == pytest.approx(2 * MIB / RATE + 2e-3)


def test_a_demand_overtakes_what_has_not_set_out() -> None:
    clock, link = open_queue(depth=2)
    ahead = link.submit([MIB] * 8, Priority.PREFETCH)
    clock.advance(0.5 * MIB / RATE)
    link.finish(link.submit([MIB], Priority.DEMAND))
    # Two requests were in flight; one of the prefetch's goes on beside the demand's.
    assert clock.now_s == pytest.approx(4 * MIB / RATE)
    assert not ahead.is_done
    link.finish(ahead)
    assert clock.now_s == pytest.approx(9 * MIB / RATE)


def test_guesses_leave_room_for_others() -> None:
    clock, link = open_queue(depth=16, guess_depth=4)
    link.submit([MIB] * 8, Priority.GUESS)
    clock.advance(1e-9)
    link.finish(link.submit([MIB], Priority.DEMAND))
    assert clock.now_s == pytest.approx(5 * MIB / RATE, rel=1e-3)


def test_what_is_cancelled_does_not_move() -> None:
    clock, link = open_queue(depth=1)
    first, second = link.submit([MIB], Priority.DEMAND), link.submit([MIB], Priority.PREFETCH)
    assert link.cancel(second)
    assert isinstance(second.error, TransferCancelledError)
    link.finish(first)
    clock.advance(1.0)
    assert not link.is_busy
    assert link.use.nbytes == MIB
    assert not link.cancel(first)


def test_time_may_pass_in_any_steps() -> None:
    ends = []
    for step in (1e-2, 3.7e-5):
        clock, link = open_queue(latency_s=1e-4, request_s=2e-5, transfer_s=1e-4, depth=4)
        transfer = link.submit([MIB // 2] * 13, Priority.PREFETCH)
        while not transfer.is_done:
            clock.advance(step)
        ends.append(transfer.ends_at)
    assert ends[0] == pytest.approx(ends[1], rel=1e-9)
