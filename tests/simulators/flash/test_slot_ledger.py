"""The exact merge against another way to keep time: a ledger of credits per channel and slot, as NVMeVirt has it."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from simulators.flash.drive import DriveParameters
from simulators.flash.timing import FlashTiming, PagesTouched

_SLOT_S = 4e-6
_CREDIT_NBYTES = 128


def _ledger_s(drive: DriveParameters, channels: NDArray[np.int64], dies: NDArray[np.int64]) -> float:
    """Requests in the order of issue; a later one may fill gaps that an earlier one left on the channel.

    Every slot of 4 us has as many credits of 128 bytes as a channel moves in it. A die is busy until its last credit.
    """
    per_slot = int(_SLOT_S * drive.channel_bytes_per_s / _CREDIT_NBYTES)
    ledger = [dict[int, int]() for _ in range(drive.channels)]
    die_free = dict[tuple[int, int], float]()
    for channel, die in zip(channels.tolist(), dies.tolist(), strict=True):
        sensed = die_free.get((channel, die), 0.0) + drive.read_s
        wanted = drive.page_nbytes // _CREDIT_NBYTES
        slot = int(sensed / _SLOT_S)
        while wanted:
            left = ledger[channel].get(slot, per_slot)
            taken = min(left, wanted)
            ledger[channel][slot] = left - taken
            wanted -= taken
            slot += 1
        used = 1 - ledger[channel][slot - 1] / per_slot
        die_free[channel, die] = max((slot - 1) * _SLOT_S, sensed) + _SLOT_S * used
    return max(die_free.values())


@pytest.mark.parametrize(("dies_per_channel", "tolerance"), [(8, 0.03), (16, 0.05)])
def test_the_ledger_agrees(dies_per_channel: int, tolerance: float) -> None:
    """Where channel and dies are equally busy it is a little optimistic: credits of a slot can be taken before now."""
    drive = replace(DriveParameters(), dies_per_channel=dies_per_channel, command_s=0.0, filter_bytes_per_s=1e15)
    rng = np.random.default_rng(0)
    channels, dies = rng.integers(0, 8, 20_000), rng.integers(0, dies_per_channel, 20_000)
    exact = FlashTiming(drive).read_s(PagesTouched(channels, dies))
    assert _ledger_s(drive, channels, dies) == pytest.approx(exact, rel=tolerance)


def test_the_next_free_time_in_the_order_of_issue_is_far_too_long() -> None:
    """Why there is a merge: the recursion that looks obvious makes early senses wait for late ones."""
    drive = replace(DriveParameters(), dies_per_channel=8, filter_bytes_per_s=1e15)
    rng = np.random.default_rng(0)
    channels, dies = rng.integers(0, 8, 20_000), rng.integers(0, 8, 20_000)
    channel_free, die_free = [0.0] * 8, dict[tuple[int, int], float]()
    for place in zip(channels.tolist(), dies.tolist(), strict=True):
        sensed = die_free.get(place, 0.0) + drive.read_s
        channel_free[place[0]] = die_free[place] = max(sensed, channel_free[place[0]]) + drive.page_transfer_s
    assert max(channel_free) > 2 * FlashTiming(drive).read_s(PagesTouched(channels, dies))
