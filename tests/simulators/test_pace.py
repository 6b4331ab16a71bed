"""Transfers over different links that pass through the same thing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulators.modelled_link import VirtualClock
from simulators.modelled_mover import EmptyTier, ModelledMover, Route
from simulators.pace import paces
from tiers.chunks import Move
from tiers.link import Priority

DEVICE, HOST, NVME = (EmptyTier(name, 8, 10) for name in ("device", "host", "nvme"))
RATES = st.lists(st.dictionaries(st.sampled_from("abc"), st.floats(0, 100)), min_size=1, max_size=6)


def make_mover(capacity: float) -> ModelledMover:
    """A second a block of 10 bytes on an idle link; both links fill 10 bytes a second of the lanes."""
    routes = {
        "host->device": Route(lambda blocks, _: float(blocks), "host", {"lanes": 1.0}),
        "nvme->device": Route(lambda blocks, _: float(blocks), "nvme", {"lanes": 1.0}),
        "device->host": Route(lambda blocks, _: float(blocks), "back"),
    }
    return ModelledMover(VirtualClock(), routes, {"lanes": capacity})


def test_both_are_slower_while_both_move() -> None:
    """One block beside two: at 12 of 20 bytes a second the one takes 10 / 6 s, then the rest of the two moves alone."""
    mover = make_mover(12.0)
    one = mover.submit(HOST, DEVICE, [Move(0, 0)], Priority.DEMAND)
    two = mover.submit(NVME, DEVICE, [Move(0, 0), Move(1, 1)], Priority.DEMAND)
    back = mover.submit(DEVICE, HOST, [Move(2, 2)], Priority.WRITE_BACK)
    mover.wait(one)
    assert mover.clock.now_s == pytest.approx(10 / 6)
    assert back.is_done
    mover.wait(two)
    assert mover.clock.now_s == pytest.approx(10 / 6 + 1.0)


def test_enough_for_both_is_as_if_alone() -> None:
    mover = make_mover(20.0)
    for source in (HOST, NVME):
        mover.submit(source, DEVICE, [Move(0, 0)], Priority.DEMAND)
    mover.clock.advance(0.5)
    late = mover.submit(NVME, DEVICE, [Move(1, 1)], Priority.DEMAND)
    mover.wait(late)
    assert mover.clock.now_s == 2.0


def test_time_is_worked_off_in_any_pieces() -> None:
    """However often somebody looks, transfers end when they end."""
    ends = []
    for step in (0.01, 0.3, 1.4):
        mover = make_mover(12.0)
        moves = [Move(i, i) for i in range(3)]
        first = mover.submit(HOST, DEVICE, moves, Priority.DEMAND)
        second = mover.submit(NVME, DEVICE, moves[:2], Priority.PREFETCH)
        for _ in range(3):
            mover.clock.advance(step)
            assert not first.is_done
        mover.wait(first)
        mover.wait(second)
        ends.append(mover.clock.now_s)
    assert ends == pytest.approx([ends[0]] * 3)
    # Fifty bytes, of which forty side by side at 12 a second.
    assert ends[0] == pytest.approx(40 / 12 + 1.0)


def test_who_moves_when_is_told() -> None:
    """The one until it ends, then the other alone; whoever waits behind moves nothing."""
    told: list[tuple[str, float, float]] = []
    routes = make_mover(12.0).routes
    mover = ModelledMover(
        VirtualClock(), routes, {"lanes": 12.0}, lambda moved, start, end: told.append((moved.name, start, end))
    )
    for number in range(2):
        mover.submit(NVME, DEVICE, [Move(number, number)], Priority.DEMAND)
    mover.wait(mover.submit(HOST, DEVICE, [Move(2, 2)], Priority.DEMAND))
    mover.clock.advance(9.0)
    assert mover.seconds("nvme", "device", 1, 10) == 1.0
    mover.wait(mover.submit(HOST, DEVICE, [Move(3, 3)], Priority.DEMAND))
    assert [(name, round(start, 3), round(end, 3)) for name, start, end in told] == [
        ("host->device", 0.0, 1.667),
        ("nvme->device", 0.0, 1.667),
        ("nvme->device", 1.667, 2.667),
        ("host->device", 10.667, 11.667),
    ]


def test_a_cancelled_one_leaves_the_lanes_to_the_other() -> None:
    mover = make_mover(10.0)
    one = mover.submit(HOST, DEVICE, [Move(0, 0), Move(1, 1)], Priority.DEMAND)
    guess = mover.submit(NVME, DEVICE, [Move(2, 2)], Priority.GUESS)
    mover.clock.advance(1.0)
    assert mover.cancel(guess)
    mover.wait(one)
    assert mover.clock.now_s == pytest.approx(0.5 * 2 + 1.5)


@given(rates=RATES)
def test_no_capacity_is_exceeded_and_nobody_stands_still(rates: list[dict[str, float]]) -> None:
    capacities = dict.fromkeys("abc", 60.0)
    shares = paces(rates, capacities)
    assert all(0 < share <= 1 for share in shares)
    for name, capacity in capacities.items():
        assert sum(share * one.get(name, 0.0) for share, one in zip(shares, rates, strict=True)) <= capacity * 1.0001
