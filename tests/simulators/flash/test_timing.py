"""What commands take, from the pages that they touch."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators.flash.closed_loop import closed_loop_s
from simulators.flash.drive import DriveParameters
from simulators.flash.drive_file import load_drive
from simulators.flash.engines import EngineWork
from simulators.flash.makespan import closed_form_s
from simulators.flash.operations import operation_times
from simulators.flash.timing import FlashTiming, PagesTouched, Phase
from tiers.errors import InvalidOptionError

DRIVE = DriveParameters(retries_per_page=0.0)
TIMING = FlashTiming(DRIVE)


def _striped(num_pages: int, drive: DriveParameters = DRIVE) -> PagesTouched:
    page = np.arange(num_pages)
    return PagesTouched(page % drive.channels, page // drive.channels % drive.dies_per_channel)


def test_one_page_takes_every_station_once() -> None:
    one = TIMING.read_s(PagesTouched([3], [5]))
    filter_s = DRIVE.page_nbytes / DRIVE.filter_bytes_per_s
    assert one == pytest.approx(DRIVE.read_s + DRIVE.page_transfer_s + filter_s)
    assert TIMING.write_s(PagesTouched([3], [5])) == pytest.approx(DRIVE.page_transfer_s + DRIVE.program_s)
    erased_s = TIMING.write_s(_striped(0), PagesTouched([3], [5]))
    assert erased_s == pytest.approx(DRIVE.command_s + DRIVE.erase_s)


def test_one_read_of_a_known_drive() -> None:
    """NVMeVirt's 970 PRO, alone, 4 KiB: 21.5 + 35.8 + 5.1 + 1.2 = 63.6 us."""
    assert closed_loop_s(load_drive("970pro"), [(0, 0)], 1) == pytest.approx(63.6e-6, rel=0.002)


@pytest.mark.parametrize(("mega_transfers", "latency_us"), [(333, 52), (500, 48), (1000, 44)])
def test_one_read_as_mqsim_has_it(mega_transfers: int, latency_us: float) -> None:
    drive = replace(DRIVE, channel_bytes_per_s=mega_transfers * 1e6, command_s=0.29e-6, firmware_s=0.0)
    dies = [(page % 8, page // 8 % 8) for page in range(200)]
    assert closed_loop_s(drive, dies, 1) / 200 == pytest.approx(latency_us * 1e-6, rel=0.025)


def test_loaded_reads_as_mqsim_has_them() -> None:
    """847 thousand reads a second of 4 KiB at depth 512, 8 x 8 dies, 1000 MT/s; simulators differ by up to 15 %.

    Its link is 4 lanes of 1 GB/s, on which 128 bytes travel with 28 of headers.
    """
    link = 4e9 * 128 / 156
    drive = replace(DRIVE, dies_per_channel=8, channel_bytes_per_s=1e9, command_s=0.29e-6, firmware_s=0.0)
    drive = replace(drive, link_bytes_per_s=link)
    dies = np.random.default_rng(0).integers(0, 8, (20_000, 2)).tolist()
    rate = 20_000 / closed_loop_s(drive, [(channel, die) for channel, die in dies], 512)
    assert rate == pytest.approx(847e3, rel=0.15)


def test_a_deeper_queue_is_no_slower_and_ends_at_the_open_queue() -> None:
    dies = [tuple(pair) for pair in np.random.default_rng(1).integers(0, 8, (3000, 2)).tolist()]
    drive = replace(DRIVE, dies_per_channel=8, firmware_s=0.0, link_bytes_per_s=1e15)
    seconds = [closed_loop_s(drive, [(c, d) for c, d in dies], depth) for depth in (1, 8, 64, 3000)]
    assert seconds == sorted(seconds, reverse=True)
    channel, die = np.array(dies).T
    open_s = FlashTiming(replace(drive, filter_bytes_per_s=1e15)).read_s(PagesTouched(channel, die))
    assert seconds[-1] == pytest.approx(open_s, rel=0.01)


def test_neighbours_on_a_die_share_a_sense() -> None:
    """Four pages of one row: one sense; of four rows, or without rows: four."""
    drive = replace(DRIVE, pages_per_sense=4)
    timing, zeros = FlashTiming(drive), np.zeros(4, int)
    shared = timing.read_s(PagesTouched(zeros, zeros, zeros))
    apart = timing.read_s(PagesTouched(zeros, zeros, np.arange(4)))
    assert shared == pytest.approx(drive.read_s + 4 * drive.page_transfer_s + 4 * 4096 / 1.85e9)
    assert apart == pytest.approx(4 * (drive.read_s + drive.page_transfer_s) + 4096 / 1.85e9)
    assert timing.read_s(PagesTouched(zeros, zeros)) == apart
    # A row of six is more than a sense brings.
    zeros = np.zeros(6, int)
    assert timing.read_s(PagesTouched(zeros, zeros, zeros)) > shared + drive.read_s


def test_programs_take_full_rows_of_a_die() -> None:
    """Pages of a die need not be neighbours in the order given; the last program of each may be smaller."""
    pages = _striped(128 * 6)
    channel, die = np.asarray(pages.channel), np.asarray(pages.die)
    seconds = FlashTiming(replace(DRIVE, pages_per_program=4)).write_s(PagesTouched(channel, die))
    assert 2 * DRIVE.program_s < seconds < 2 * DRIVE.program_s + 16 * 6 * DRIVE.page_transfer_s


def _phases(num_pages: int = 4096) -> list[Phase]:
    work = EngineWork(flops=1e6, scores=1e4, ranked=1e4, dram_nbytes=1e5)
    return [Phase(_striped(num_pages), work), Phase(_striped(num_pages), work)]


def test_attention_is_bounded_by_its_stations() -> None:
    together = TIMING.attend_s(_phases(), jobs=100, nbytes_in=3e4, nbytes_out=1e4)
    alone = TIMING.attend_s(_phases(), jobs=1, nbytes_in=3e4, nbytes_out=1e4)
    assert set(together.stations_s) == {"submit", "flash", "gemv", "softmax", "top-k", "dram", "weigh", "link"}
    assert max(together.stations_s.values()) < together.seconds < sum(together.stations_s.values())
    # One job cannot read ahead of what it depends on.
    assert alone.seconds == pytest.approx(sum(alone.stations_s.values()))
    assert alone.stations_s["flash"] > together.stations_s["flash"]
    assert together.seconds > 2 * 4096 * 4096 / (DRIVE.channels * DRIVE.channel_bytes_per_s)
    assert alone.stations_s["link"] == pytest.approx(2 * DRIVE.link_latency_s + 4e4 / DRIVE.link_bytes_per_s)


def test_more_units_help_only_where_they_are_the_limit() -> None:
    slow = [Phase(_striped(64), EngineWork(scores=1e6))]
    fast = [Phase(_striped(4096), EngineWork(scores=1e3))]
    doubled = FlashTiming(replace(DRIVE, softmax_units=8))
    both = [(timing.attend_s(slow, jobs=64), timing.attend_s(fast, jobs=64)) for timing in (doubled, TIMING)]
    ratios = [more.seconds / less.seconds for more, less in zip(*both, strict=True)]
    assert ratios == pytest.approx([0.5, 1.0], rel=0.02)


@settings(max_examples=30, deadline=None)
@given(
    pages=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 4)), max_size=40),
    together=st.integers(1, 4),
)
def test_every_page_is_in_one_sense_and_in_one_program(pages: list[tuple[int, int, int]], together: int) -> None:
    """Bytes on the channels are those of the pages, however many share an operation."""
    drive = replace(DRIVE, channels=2, dies_per_channel=3, pages_per_sense=together, pages_per_program=together)
    channel, die, row = np.array(pages, np.int64).reshape(-1, 3).T
    timing, touched = FlashTiming(drive), PagesTouched(channel, die, row)
    transfers = operation_times(drive).transfer / drive.page_transfer_s
    for channels, dies, kinds in (timing._senses(touched), timing._programs(touched)):
        assert round(transfers[kinds].sum()) == len(pages)
        assert set(zip(channels.tolist(), dies.tolist(), strict=True)) == {place[:2] for place in pages}


def test_background_programs_take_time_from_reads() -> None:
    plain = TIMING.attend_s(_phases(), jobs=100)
    flushed = TIMING.attend_s(_phases(), jobs=100, flushed=_striped(256))
    assert plain.seconds < flushed.seconds < plain.seconds + TIMING.write_s(_striped(256)) * 1.1


def test_the_closed_form_serves_as_well() -> None:
    rough = FlashTiming(DRIVE, closed_form_s).attend_s(_phases(), jobs=100)
    assert rough.seconds == pytest.approx(TIMING.attend_s(_phases(), jobs=100).seconds, rel=0.01)


def test_nothing_to_read_and_no_jobs() -> None:
    assert TIMING.attend_s([], jobs=1).stations_s["flash"] == 0.0
    assert TIMING.read_s(_striped(0)) == TIMING.write_s(_striped(0)) == 0.0
    with pytest.raises(InvalidOptionError, match="an attend command of 0 jobs"):
        TIMING.attend_s(_phases(), jobs=0)


def test_values_are_weighed_while_nothing_is_read() -> None:
    """The same arithmetic beside reading is hidden behind the flash."""
    pages = _striped(4096)
    hidden, shown = (
        TIMING.attend_s([Phase(pages, work)], jobs=100)
        for work in (EngineWork(flops=1e6), EngineWork(weighing_flops=1e6))
    )
    drive = TIMING.drive
    assert shown.stations_s["weigh"] == pytest.approx(1e6 / (drive.gemv_units * drive.gemv_flops))
    assert shown.seconds - hidden.seconds == pytest.approx(shown.stations_s["weigh"], rel=0.02)
