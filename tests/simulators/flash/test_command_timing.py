"""An emulated drive's commands, timed by the pages of their traces."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from simulators.flash.command_timing import CommandTiming
from simulators.flash.drive import DriveParameters
from simulators.flash.engines import pipeline_s
from tiers.errors import InvalidOptionError

DRIVE = DriveParameters(dies_per_channel=4)


@dataclass(frozen=True)
class _Heads:
    kv_heads: int = 2
    heads_per_kv: int = 1
    head_dim: int = 128


@dataclass(frozen=True)
class _Geometry:
    channels: int = 8
    dies_per_channel: int = 4
    page_nbytes: int = 4096


@dataclass(frozen=True)
class _Trace:
    phases: dict[str, NDArray[np.int64]]


@dataclass(frozen=True)
class _Work:
    trace: _Trace
    config: _Heads = field(default_factory=_Heads)
    geometry: _Geometry = field(default_factory=_Geometry)
    num_tokens: tuple[int, ...] = (512,)
    sent_nbytes: int = 1536
    received_nbytes: int = 512


def _work(**phases: NDArray[np.int64]) -> _Work:
    return _Work(_Trace(phases))


def test_an_attend_takes_what_its_pages_take() -> None:
    timing = CommandTiming(DRIVE)
    few, many = (timing.attend_s(_work(attend=np.arange(count))) for count in (32, 128))
    # One page of every die, then four; the rest is the same.
    assert many - few == pytest.approx(3 * (DRIVE.read_s + DRIVE.page_transfer_s), rel=0.15)
    same_die = timing.attend_s(_work(attend=np.arange(32) * 32))
    assert same_die > few + 31 * DRIVE.read_s


def _pages_on(die: int, count: int = 1) -> NDArray[np.int64]:
    return die + 32 * np.arange(count)


def test_background_work_goes_before_the_reads_of_its_dies() -> None:
    pages = np.arange(64)
    plain = CommandTiming(DRIVE).attend_s(_work(attend=pages))
    programs = CommandTiming(DRIVE).attend_s(_work(attend=pages, program=np.array([1000])))
    erases = CommandTiming(DRIVE).attend_s(_work(attend=pages, erase=np.array([7])))
    copies = CommandTiming(DRIVE).attend_s(_work(attend=pages, copy=_pages_on(5, 3)))
    assert programs == pytest.approx(plain + DRIVE.program_s, rel=0.1)
    assert erases == pytest.approx(plain + DRIVE.erase_s, rel=0.1)
    assert copies == pytest.approx(plain + 3 * (DRIVE.read_s + DRIVE.page_transfer_s), rel=0.1)


def test_background_work_on_other_dies_is_not_waited_for() -> None:
    here, elsewhere = _pages_on(0, 4), _pages_on(9)
    plain = CommandTiming(DRIVE).attend_s(_work(attend=here))
    timing = CommandTiming(DRIVE)
    assert timing.attend_s(_work(attend=here, program=elsewhere)) == plain
    # It goes on behind the command: who reads there next waits for the rest of it.
    rest = timing.attend_s(_work(attend=_pages_on(9, 4)))
    assert rest == pytest.approx(DRIVE.program_s + DRIVE.page_transfer_s, rel=0.03)
    assert timing.attend_s(_work(attend=_pages_on(9, 4))) == plain


def test_many_dies_are_busy_for_times_of_their_own() -> None:
    """More of them than a queue has kinds of operations: rounded, upwards and by little."""
    drive = replace(DRIVE, dies_per_channel=64)
    geometry = _Geometry(dies_per_channel=64)
    timing = CommandTiming(drive)
    programs = np.concatenate([die + 512 * np.arange(1 + die) for die in range(512)])
    reads = np.arange(511, 512)
    plain = CommandTiming(drive).attend_s(replace(_work(attend=reads), geometry=geometry))
    found = timing.attend_s(replace(_work(attend=reads, program=programs), geometry=geometry))
    alone = 512 / drive.pages_per_program * (drive.program_s + drive.pages_per_program * drive.page_transfer_s)
    assert plain + alone <= found <= plain + 1.01 * alone


def test_phases_of_a_selection_depend_on_each_other() -> None:
    work = _work(channels=np.arange(8), tokens=np.arange(8, 16))
    alone = CommandTiming(DRIVE).attend_s(replace(work, config=_Heads(kv_heads=1)))
    heads = CommandTiming(DRIVE).attend_s(work)
    assert alone > 2 * DRIVE.read_s
    assert heads < alone


PAGE = np.arange(1)
"""16 keys or values of 128 channels: a product with each number is 4,096 operations."""


@pytest.mark.parametrize(
    ("phases", "flops", "weighed", "scores", "ranked"),
    [
        (("attend",), 2048, 2048, 1024, 0),
        (("channels",), 4096, 0, 1024, 1024),
        (("channels", "tokens"), 6144, 2048, 1024 + 8, 1024),
        (("summaries", "groups"), 6144, 2048, 64 + 8, 64),
        (("groups",), 2048, 2048, 8, 0),
        (("keys", "values"), 4096, 4096, 16, 0),
        (("summaries", "keys", "values"), 8192, 4096, 64 + 16, 64),
    ],
)
def test_the_arithmetic_of_a_phase_follows_from_its_name(
    phases: tuple[str, ...], flops: int, weighed: int, scores: int, ranked: int
) -> None:
    """512 tokens of two heads, by a drive that takes a second for each operation and no time for anything else."""
    slow = replace(DRIVE, gemv_units=1, gemv_flops=1.0, softmax_units=1, softmax_per_s=1.0, ranked_per_s=1.0)
    found = CommandTiming(slow).attend_s(_work(**dict.fromkeys(phases, PAGE)))
    beside_reading = pipeline_s({"gemv": flops, "softmax": scores, "top-k": ranked}, jobs=2)
    assert found == pytest.approx(beside_reading + weighed, rel=1e-5)


def test_a_write_takes_its_programs_or_its_bytes() -> None:
    timing = CommandTiming(DRIVE)
    assert timing.write_s(_work(program=np.arange(32))) > DRIVE.program_s
    waits = timing.write_s(replace(_work(), sent_nbytes=7_000_000))
    assert waits == pytest.approx(DRIVE.firmware_s + DRIVE.link_latency_s + 1e-3, rel=0.01)
    assert timing.attend_s(replace(_work(), num_tokens=())) > 0


def test_a_read_back_takes_its_pages_or_its_bytes() -> None:
    timing = CommandTiming(DRIVE)
    pages = replace(_work(attend=_pages_on(0, 10)), sent_nbytes=0)
    assert timing.read_s(pages) == pytest.approx(10 * (DRIVE.read_s + DRIVE.page_transfer_s), rel=0.05)
    waits = timing.read_s(replace(pages, received_nbytes=70_000_000))
    assert waits == pytest.approx(DRIVE.firmware_s + DRIVE.link_latency_s + 1e-2, rel=0.01)


def test_another_geometry_is_refused() -> None:
    timing = CommandTiming(replace(DRIVE, channels=4))
    with pytest.raises(InvalidOptionError, match="the emulated drive has channels 8, the timing of 'default' has 4"):
        timing.attend_s(_work(attend=np.arange(4)))
