"""The drive as a process: what it answers, and what goes over the link."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.tiers.csd.kit import CONFIG, SMALL, attend, is_right, tokens, write
from tiers.csd.commands import Attend, Precision, ReadKV, Reclaim
from tiers.csd.drive import ComputationalDrive, QueueOptions
from tiers.csd.timing import DriveWork
from tiers.csd.wire import COMPLETION, SUBMISSION, Opcode
from tiers.errors import (
    DriveFullError,
    InvalidOptionError,
    TokensLostError,
)

HEADERS = SUBMISSION.size + COMPLETION.size
ROOMY = replace(SMALL, blocks_per_die=128, dram_nbytes=1 << 22)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComputationalDrive]:
    """One drive for the tests that leave it whole."""
    with ComputationalDrive(tmp_path_factory.mktemp("csd") / "image", ROOMY) as drive:
        yield drive


@pytest.fixture
def drive(shared: ComputationalDrive) -> Iterator[ComputationalDrive]:
    """Empty, with a task."""
    shared.configure(CONFIG)
    yield shared
    shared.reclaim(Reclaim(CONFIG.task))


def test_decodes(drive: ComputationalDrive) -> None:
    made = tokens(200)
    assert drive.write_kv(write(made, 0, 150)).wait().num_tokens == 150
    for token in range(150, 200):
        answer = drive.attend(attend(made, token)).wait()
        assert is_right(answer.output[0], made, token + 1)
    assert drive.inspect(1, 0).num_tokens == (200, 0)


@pytest.mark.parametrize(("link_dtype", "dtype"), [("float32", "float16"), ("float16", "float32")])
def test_a_step_moves_query_token_and_output_and_nothing_else(
    drive: ComputationalDrive, link_dtype: Precision, dtype: Precision
) -> None:
    """Counted in the queue: q + k + v there, the output and its logsumexp back, and headers of fixed size."""
    config = replace(CONFIG, task=7, link_dtype=link_dtype, dtype=dtype)
    drive.configure(config)
    batch, made = 3, tokens(300, config=config)
    for sequence in range(batch):
        drive.write_kv(write(made, 0, 290, sequence=sequence, config=config)).wait()
    before = replace(drive.traffic[Opcode.ATTEND])
    keys, values = (np.stack([part[:, 290]] * batch) for part in (made.keys, made.values))
    command = Attend(7, 0, np.arange(batch), np.full(batch, 290), np.stack([made.query] * batch), keys, values)
    answer = drive.attend(command).wait()
    after = drive.traffic[Opcode.ATTEND]
    query_nbytes = batch * 4 * 64 * np.dtype(link_dtype).itemsize
    token_nbytes = 2 * batch * 2 * 64 * np.dtype(dtype).itemsize
    assert answer.output.dtype == link_dtype
    assert answer.output.flags.writeable, "it becomes a tensor"
    assert after.commands - before.commands == 1
    assert after.sent_nbytes - before.sent_nbytes == query_nbytes + token_nbytes
    assert after.received_nbytes - before.received_nbytes == query_nbytes + batch * 4 * 4
    assert after.header_nbytes - before.header_nbytes == HEADERS + batch * 8
    drive.reclaim(Reclaim(7))


def test_a_long_prompt_goes_in_pieces(tmp_path: Path) -> None:
    """Keys and values of more bytes than the queue holds; each byte goes once."""
    made = tokens(3000)
    with ComputationalDrive(tmp_path / "image", ROOMY, queue=QueueOptions(depth=2, data_nbytes=1 << 20)) as drive:
        drive.configure(CONFIG)
        pending = drive.write_kv(write(made, 0, 2999))
        assert pending.wait().num_tokens == 2999
        traffic = drive.traffic[Opcode.WRITE_KV]
        assert traffic.sent_nbytes == 2 * made.keys[:, :2999].nbytes > 2 << 20
        assert traffic.commands > 4
        assert is_right(drive.attend(attend(made, 2999)).wait().output[0], made, 3000)
        huge = Attend(1, 0, np.arange(2000), np.zeros(2000, np.int64), np.zeros((2000, 4, 64), np.float32))
        with pytest.raises(InvalidOptionError, match=r"does not fit into the drive's queue of 1,048,576; split it"):
            drive.attend(huge)


def test_tokens_come_back_as_they_went(tmp_path: Path) -> None:
    """From flash and from memory, from the middle of a group, and more than the queue holds at once."""
    made = tokens(3003)
    with ComputationalDrive(tmp_path / "image", ROOMY, queue=QueueOptions(depth=2, data_nbytes=1 << 20)) as drive:
        drive.configure(CONFIG)
        drive.write_kv(write(made, 0, 3003))
        for start, num_tokens in ((0, 3003), (17, 2900), (3001, 2), (5, 1)):
            found = drive.read_kv(ReadKV(1, 0, 0, start, num_tokens)).wait()
            wanted = slice(start, start + num_tokens)
            assert np.array_equal(found.keys, made.keys[:, wanted])
            assert np.array_equal(found.values, made.values[:, wanted])
        with pytest.raises(TokensLostError, match=r"3,?004"):
            drive.read_kv(ReadKV(1, 0, 0, 3000, 4)).wait()
        with pytest.raises(TokensLostError):
            drive.read_kv(ReadKV(1, 9, 0, 0, 1)).wait()


def test_many_commands_can_be_under_way(drive: ComputationalDrive) -> None:
    """More than the queue is deep, waited for in another order."""
    made = tokens(200)
    drive.write_kv(write(made, 0, 40))
    pending = {token: drive.attend(attend(made, token)) for token in range(40, 180)}
    for token in (100, 179, 40, 41, *range(42, 179)):
        assert is_right(pending[token].wait().output[0], made, token + 1)


def test_errors_come_over_the_link_as_they_are(drive: ComputationalDrive) -> None:
    made = tokens(200)
    drive.write_kv(write(made, 0, 30)).wait()
    with pytest.raises(TokensLostError) as lost:
        drive.attend(attend(made, 40)).wait()
    assert (lost.value.wanted_tokens, lost.value.held_tokens, lost.value.tier) == (40, 30, "csd")
    assert "write from token 30 again" in str(lost.value)
    pending = [drive.write_kv(write(made, 0, 200, sequence=sequence)) for sequence in range(1, 120)]
    with pytest.raises(DriveFullError) as full:
        pending[-1].wait()
    assert full.value.wanted_nbytes > full.value.available_nbytes
    with pytest.raises(InvalidOptionError, match="task 55 is not configured"):
        drive.attend(attend(made, 30, config=replace(CONFIG, task=55)))
    with pytest.raises(InvalidOptionError, match=r"keys have shape \(2, 3, 32\); the task of the drive takes"):
        drive.write_kv(replace(write(made, 0, 3), keys=np.zeros((2, 3, 32), np.float32)))
    with pytest.raises(InvalidOptionError, match="the drive holds 30 tokens, the command goes on from 4"):
        drive.write_kv(write(made, 4, 8)).wait()
    for sequence, start in ((1 << 32, 30), (-1, 30), (0, (1 << 32) + 30)):  # which would wrap to those of another
        elsewhere = replace(attend(made, 30), sequences=np.array([sequence]), starts=np.array([start]))
        with pytest.raises(InvalidOptionError, match="is not addressable"):
            drive.attend(elsewhere)
    with pytest.raises(InvalidOptionError, match=r"engine 'ppp.*\.\.\.$"):
        drive.configure(replace(CONFIG, task=3, engine="p" * 100_000))
    with pytest.raises(InvalidOptionError, match="engine 'psychic' is unknown"):
        drive.configure(replace(CONFIG, task=3, engine="psychic"))
    assert is_right(drive.attend(attend(made, 30)).wait().output[0], made, 31)


def test_after_a_piece_that_failed_the_first_reason_is_told(tmp_path: Path) -> None:
    made = tokens(4000)
    with ComputationalDrive(tmp_path / "image", SMALL, queue=QueueOptions(data_nbytes=1 << 20)) as drive:
        drive.configure(CONFIG)
        with pytest.raises(DriveFullError):
            drive.write_kv(write(made, 0, 4000)).wait()
        held = drive.inspect(1, 0).num_tokens[0]
        assert 0 < held < 4000
        assert is_right(drive.attend(attend(made, held)).wait().output[0], made, held + 1)


def test_says_what_it_is_and_how_it_is(drive: ComputationalDrive) -> None:
    identity = drive.identify()
    assert identity.geometry == ROOMY
    assert "dense" in identity.engines
    drive.write_kv(write(tokens(100), 0, 100)).wait()
    health = drive.health()
    assert health.free_pages + health.valid_pages + health.dead_pages == ROOMY.num_pages
    assert health.valid_pages == 6 * 4
    assert health.sequences == 1


class CountsPages:
    """A second for every page."""

    def __init__(self) -> None:
        self.work: list[DriveWork] = []

    def attend_s(self, work: DriveWork) -> float:
        self.work.append(work)
        return float(sum(pages.size for phase, pages in work.trace.phases.items() if phase != "program"))

    def write_s(self, work: DriveWork) -> float:
        self.work.append(work)
        return 1000.0

    def read_s(self, work: DriveWork) -> float:
        self.work.append(work)
        return 1e6


def test_a_timing_is_fed_with_the_pages_that_were_touched(tmp_path: Path) -> None:
    timing, made = CountsPages(), tokens(200)
    with ComputationalDrive(tmp_path / "image", SMALL, timing=timing) as drive:
        drive.configure(CONFIG)
        drive.write_kv(write(made, 0, 100)).wait()
        assert drive.modelled_s == 1000.0
        written = timing.work[0].trace.phases
        assert drive.attend(attend(made, 100)).wait().output.any()
        before_s = drive.modelled_s
        drive.read_kv(ReadKV(1, 0, 0, 32, 40)).wait()
        assert drive.modelled_s == before_s + 1e6
    pages = {phase: pages.size for phase, pages in timing.work[2].trace.phases.items()}
    assert pages == {"attend": 2 * 3}, "groups of values; the keys wait in memory"
    assert timing.work[2].num_tokens == (40,)
    assert timing.work[1].num_tokens == (101,)
    # Six groups of values and none of keys, which wait in memory for a page of the channel index to fill.
    assert drive.modelled_s == 1000.0 + 12 + 1e6
    read = timing.work[1].trace.phases["attend"]
    assert written["program"].size == 2 * 2 * 6
    assert set(read.tolist()) <= set(written["program"].tolist())


def test_starts_without_heavy_libraries() -> None:
    code = "import sys, tiers.csd.device, tiers.csd.drive; print({'torch', 'transformers', 'zarr'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "set()"
