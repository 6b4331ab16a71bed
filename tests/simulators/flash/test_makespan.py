"""Three fidelities of flash agree where they should, and no time is below what physics allows."""

import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from simulators.flash.drive import DriveParameters
from simulators.flash.drive_file import changed
from simulators.flash.heap_merge import channel_ends_by_heap
from simulators.flash.makespan import channel_ends, closed_form_s, exact_s, striped_bytes_per_s
from simulators.flash.operations import OperationTimes, Queues, operation_times, queues_of
from tests.simulators.flash.oracle import oracle_s
from tiers.errors import InvalidOptionError

DRIVE = DriveParameters()


def _striped(drive: DriveParameters, num_pages: int) -> Queues:
    page = np.arange(num_pages)
    return _reads(drive, page % drive.channels, page // drive.channels % drive.dies_per_channel)


def _random(drive: DriveParameters, num_pages: int, seed: int = 0) -> Queues:
    rng = np.random.default_rng(seed)
    die = rng.integers(0, drive.num_dies, num_pages)
    return _reads(drive, die // drive.dies_per_channel, die % drive.dies_per_channel)


def _reads(drive: DriveParameters, channel: NDArray[np.int64], die: NDArray[np.int64]) -> Queues:
    return queues_of(drive, channel, die, np.zeros(len(channel), np.uint8))


def _heap_s(queues: Queues, times: OperationTimes) -> float:
    return float(channel_ends_by_heap(queues, times).max(initial=0.0))


@settings(max_examples=60, deadline=None)
@given(
    channels=st.integers(1, 3),
    dies=st.integers(1, 5),
    pages_per_sense=st.integers(1, 3),
    coarse=st.booleans(),
    operations=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.integers(0, 6)), max_size=60),
)
def test_oracle_heap_and_compiled_merge_agree_to_the_last_bit(
    channels: int, dies: int, pages_per_sense: int, coarse: bool, operations: list[tuple[int, int, int]]
) -> None:
    """Reads of several sizes, programs and erases, mixed. In coarse time many senses end together."""
    drive = DriveParameters(
        channels=channels, dies_per_channel=dies, pages_per_sense=pages_per_sense, pages_per_program=2
    )
    times = operation_times(drive)
    if coarse:
        before, transfer, after = (np.ceil(stage * 1e5) for stage in (times.before, times.transfer, times.after))
        times = OperationTimes(before, transfer, after, times.filtered)
    channel, die, kind = np.array(operations, np.int64).reshape(-1, 3).T
    kinds = (kind % len(times.before)).astype(np.uint8)
    queues = queues_of(drive, channel % channels, die % dies, kinds)
    assert oracle_s(queues, times) == _heap_s(queues, times) == exact_s(queues, times)
    assert np.array_equal(channel_ends_by_heap(queues, times), channel_ends(queues, times))


@pytest.mark.parametrize("seed", range(3))
def test_a_longer_random_trace(seed: int) -> None:
    queues, times = _random(DRIVE, 5000, seed), operation_times(DRIVE)
    assert oracle_s(queues, times) == _heap_s(queues, times) == exact_s(queues, times)


@pytest.mark.parametrize("dies", [4, 8, 16, 32])
@pytest.mark.parametrize("read_us", [25, 40, 60])
@pytest.mark.parametrize("pages_per_sense", [1, 4])
def test_closed_forms_of_striped_reads(dies: int, read_us: int, pages_per_sense: int) -> None:
    """The published formula of the rate and the bound from the queues, both within 1 % of the exact merge."""
    drive = DriveParameters(dies_per_channel=dies, pages_per_sense=pages_per_sense, read_s=read_us * 1e-6)
    sense = np.arange(24_000)
    kinds = np.full(sense.shape, pages_per_sense - 1, np.uint8)
    queues = queues_of(drive, sense % 8, sense // 8 % dies, kinds)
    times = operation_times(drive)
    seconds = exact_s(queues, times)
    nbytes = pages_per_sense * drive.page_nbytes
    rate = striped_bytes_per_s(8, dies, nbytes, drive.sense_s, pages_per_sense * drive.page_transfer_s)
    assert len(sense) * nbytes / seconds == pytest.approx(rate, rel=0.01)
    assert closed_form_s(queues, times) == pytest.approx(seconds, rel=0.01)


def test_published_rates_of_the_exact_model() -> None:
    """GB/s striped and random at 0.2 us a command, as an independent model gave them."""
    for dies, striped, drawn in ((8, 6.07, 5.57), (16, 10.46, 9.54)):
        drive = DriveParameters(dies_per_channel=dies, command_s=0.2e-6)
        times = operation_times(drive)
        for queues, rate in ((_striped(drive, 50_000), striped), (_random(drive, 50_000), drawn)):
            assert 50_000 * 4096 / exact_s(queues, times) / 1e9 == pytest.approx(rate, rel=0.02)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    num_pages=st.integers(1, 3000),
    dies=st.sampled_from([2, 8, 16]),
    read_us=st.integers(0, 90),
)
def test_a_random_trace_takes_at_least_the_closed_form_and_a_tenth_more_at_most(
    seed: int, num_pages: int, dies: int, read_us: int
) -> None:
    drive = DriveParameters(dies_per_channel=dies, read_s=read_us * 1e-6)
    queues, times = _random(drive, num_pages, seed), operation_times(drive)
    seconds, bound = exact_s(queues, times), closed_form_s(queues, times)
    most = np.bincount(np.repeat(np.arange(drive.num_dies), np.diff(queues.offsets)), minlength=drive.num_dies).max()
    assert seconds >= num_pages * drive.page_transfer_s / drive.channels
    assert seconds >= most * (drive.sense_s + drive.page_transfer_s)
    assert seconds <= 1.35 * bound
    assert bound <= 1.35 * seconds


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("channels", (2, 4, 8, 16)),
        ("dies_per_channel", (2, 4, 8, 16, 32)),
        ("channel_bytes_per_s", (0.3e9, 0.8e9, 1.4e9, 2.4e9)),
        ("filter_bytes_per_s", (0.5e9, 1e9, 2e9)),
    ],
)
def test_more_of_anything_takes_no_longer(field: str, values: tuple[float, ...]) -> None:
    drives = [changed(DRIVE, {field: value}) for value in values]
    seconds = [exact_s(_striped(drive, 8000), operation_times(drive)) for drive in drives]
    assert all(more <= less * 1.0001 for less, more in pairwise(seconds))


def test_a_die_is_held_until_its_page_has_left() -> None:
    """Two dies of one channel, two pages each, one second of sensing and one on the channel."""
    queues = Queues(2, np.array([0, 2, 4]), np.zeros(4, np.uint8))
    one, none = np.ones(1), np.zeros(1)
    times = OperationTimes(before=one, transfer=one, after=none, filtered=none)
    # Die 0: sensed at 1, out at 2, sensed at 3, out at 4. Die 1: sensed at 1, out at 3, sensed at 4, out at 5.
    assert exact_s(queues, times) == _heap_s(queues, times) == oracle_s(queues, times) == 5.0
    # While a page is programmed the channel is free.
    times = OperationTimes(before=none, transfer=one, after=3 * one, filtered=none)
    assert exact_s(queues, times) == _heap_s(queues, times) == oracle_s(queues, times) == 9.0


def test_operations_are_conserved_and_nothing_takes_no_time() -> None:
    queues = _random(DRIVE, 1234)
    assert queues.num_operations == queues.offsets[-1] == 1234
    empty = _striped(DRIVE, 0)
    assert exact_s(empty, operation_times(DRIVE)) == closed_form_s(empty, operation_times(DRIVE)) == 0.0


def test_dies_that_there_are_not() -> None:
    with pytest.raises(InvalidOptionError, match=r"channel 0 to 8 is not on the drive; it has 8 \(0 to 7\)"):
        _reads(DRIVE, np.array([0, 8]), np.array([0, 0]))
    with pytest.raises(InvalidOptionError, match="die -1 to 0 is not on the drive"):
        _reads(DRIVE, np.array([0, 1]), np.array([-1, 0]))


def test_read_retries_cost_little() -> None:
    """0.003 further senses a page: at most 0.5 % longer."""
    drives = (DRIVE, replace(DRIVE, retries_per_page=0.003))
    plain, retried = (exact_s(_random(drive, 20_000), operation_times(drive)) for drive in drives)
    assert plain < retried < plain * 1.005


def test_without_the_compiler_the_heap_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    queues, times = _random(DRIVE, 500), operation_times(DRIVE)
    compiled = exact_s(queues, times)
    monkeypatch.setitem(sys.modules, "simulators.flash.numba_merge", None)
    assert exact_s(queues, times) == compiled
