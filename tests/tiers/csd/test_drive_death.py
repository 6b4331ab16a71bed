"""When the drive's process, its host or its disk dies: a clear error at once, and nothing left behind."""

import gc
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.tiers.csd.kit import CONFIG, SMALL, attend, is_right, tokens, write
from tests.tiers.kit import open_fds, running
from tiers.csd.drive import ComputationalDrive, QueueOptions
from tiers.errors import DeviceGoneError, InvalidOptionError, TierBusyError

_HOST = """
import sys
from pathlib import Path
from tests.tiers.csd.kit import SMALL
from tiers.csd.drive import ComputationalDrive
drive = ComputationalDrive(Path(sys.argv[1]), SMALL, keep=True)
print(drive.pid, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[ComputationalDrive]:
    """A drive for a test that ends it."""
    with ComputationalDrive(tmp_path / "image", SMALL, queue=QueueOptions(timeout_s=1.0)) as drive:
        drive.configure(CONFIG)
        yield drive


def test_a_death_is_noticed_at_once(own: ComputationalDrive) -> None:
    made = tokens(100)
    own.write_kv(write(made, 0, 50)).wait()
    os.kill(own.pid, signal.SIGSTOP)
    pending = [own.attend(attend(made, 50)), own.attend(attend(made, 51))]
    os.kill(own.pid, signal.SIGKILL)
    start = time.monotonic()
    for one in pending:
        with pytest.raises(DeviceGoneError, match=r"the drive's process \d+ died \(signal SIGKILL\)"):
            one.wait()
    with pytest.raises(DeviceGoneError):
        own.attend(attend(made, 50))
    with pytest.raises(DeviceGoneError):
        own.health()
    assert time.monotonic() - start < 1.0, "the promise is a second"
    assert not psutil.pid_exists(own.pid)


def test_a_death_between_commands_is_noticed_by_the_next(own: ComputationalDrive) -> None:
    os.kill(own.pid, signal.SIGKILL)
    with pytest.raises(DeviceGoneError, match="signal SIGKILL"):
        own.health()


def test_a_disk_that_fails_under_the_drive_ends_it(tmp_path: Path) -> None:
    """Its pages are read through a mapping, and such a read can only kill."""
    path, made = tmp_path / "image", tokens(101)
    with ComputationalDrive(path, SMALL, keep=True) as drive:
        drive.configure(CONFIG)
        drive.write_kv(write(made, 0, 100)).wait()
        os.truncate(path, 4096)
        with pytest.raises(DeviceGoneError, match="signal SIGBUS"):
            drive.attend(attend(made, 100)).wait()


def test_a_drive_that_hangs_is_ended(tmp_path: Path) -> None:
    with ComputationalDrive(tmp_path / "image", SMALL, queue=QueueOptions(timeout_s=0.2)) as drive:
        os.kill(drive.pid, signal.SIGSTOP)
        with pytest.raises(DeviceGoneError, match=r"did not answer within 0.2 s and was ended"):
            drive.health()
        assert not psutil.pid_exists(drive.pid)


def test_a_closed_drive_says_so(tmp_path: Path) -> None:
    drive = ComputationalDrive(tmp_path / "image", SMALL)
    drive.close()
    drive.close()
    with pytest.raises(DeviceGoneError, match="the drive is closed"):
        drive.health()


def test_leaves_nothing_behind(tmp_path: Path) -> None:
    """No process, no descriptor, no memory with a name, no file."""
    gc.collect()
    before = open_fds()
    for how in ("close", "kill"):
        drive = ComputationalDrive(tmp_path / "image", SMALL)
        pid = drive.pid
        if how == "kill":
            os.kill(pid, signal.SIGKILL)
        drive.close()
        assert not psutil.pid_exists(pid)
        del drive
    assert open_fds() == before
    assert not list(Path("/dev/shm").glob("*csd*"))
    assert list(tmp_path.iterdir()) == []


def test_ends_with_its_host_however_that_dies(tmp_path: Path) -> None:
    with running(_HOST, tmp_path / "image") as host:
        assert host.stdout is not None
        pid = int(host.stdout.readline())
        host.kill()
        host.wait()
        device = psutil.Process(pid) if psutil.pid_exists(pid) else None
        if device is not None:
            psutil.wait_procs([device], timeout=10)
            assert not device.is_running() or device.status() == psutil.STATUS_ZOMBIE
    with ComputationalDrive(tmp_path / "image", SMALL, keep=True) as drive:
        assert not drive.identify().was_made


def test_what_is_wrong_with_the_image_is_said_at_the_start(tmp_path: Path) -> None:
    gc.collect()
    before = open_fds()
    with pytest.raises(InvalidOptionError, match=f"flash image {tmp_path}/no/image: No such file"):
        ComputationalDrive(tmp_path / "no" / "image", SMALL)
    with (
        ComputationalDrive(tmp_path / "image", SMALL, keep=True),
        pytest.raises(TierBusyError, match="another drive is using it"),
    ):
        ComputationalDrive(tmp_path / "image", SMALL, keep=True)
    assert open_fds() == before


def test_killed_in_the_middle_of_flushing(tmp_path: Path) -> None:
    """A real SIGKILL at some moment of a stream of writes; what was acknowledged as flushed is there and right."""
    made = tokens(1000)
    roomy = replace(SMALL, blocks_per_die=256, dram_nbytes=1 << 22)
    for round_ in range(3):
        path = tmp_path / str(round_)
        with ComputationalDrive(path, roomy, keep=True) as drive:
            drive.configure(CONFIG)
            pending = [drive.write_kv(write(made, n, n + 50, sequence=s)) for n in (0, 50, 100) for s in range(10)]
            flushed = {s: pending[s].wait().num_flushed for s in range(3 * round_ + 1)}
            os.kill(drive.pid, signal.SIGKILL)
        with ComputationalDrive(path, roomy, keep=True) as drive:
            drive.adopt(CONFIG)
            for sequence, promised in flushed.items():
                n = drive.inspect(1, sequence).num_tokens[0]
                assert promised <= n <= 150
                assert is_right(drive.attend(attend(made, n, sequence=sequence)).wait().output[0], made, n + 1)
            assert drive.health().lost_pages == 0
