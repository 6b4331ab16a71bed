"""Scratch space on a drive: what is in the directory, who may use it, and what happens when the drive is at fault."""

import os
import signal
import stat
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.contracts.tier import BLOCK_NBYTES, NUM_SLOTS, TierContract, pattern, raw_get, raw_put
from tests.tiers.kit import content, fill, mounted, move_one, open_fds, running
from tiers.checksum import crc32c
from tiers.errors import CorruptBlockError, DiskFullError, InvalidOptionError, TierBusyError, TransferError
from tiers.io_queue import LinuxAIOQueue, ThreadQueue
from tiers.memory_tier import MemoryTier
from tiers.nvme_tier import NVMeTier
from tiers.tier import SupportsChecksum, SupportsDirectIO, SupportsView, Tier
from tiers.transfer import TransferConfig, TransferEngine

_OCCUPANT = """
import sys
from pathlib import Path
from tiers.nvme_tier import NVMeTier
tier = NVMeTier(Path(sys.argv[1]), 4, 8192)
tier.write(1, memoryview(bytes(8192)))
print("ready", flush=True)
sys.stdin.readline()
"""

_STRANGER = """
import os, sys
from pathlib import Path
from tiers.errors import InvalidOptionError
from tiers.nvme_tier import NVMeTier
if os.geteuid() == 0:
    os.setuid(65534)
try:
    NVMeTier(Path(sys.argv[1]), 4, 8192)
except InvalidOptionError as error:
    print(error)
"""


class TestNVMeTier(TierContract):
    def make(self, directory: Path) -> Tier:
        return NVMeTier(directory, NUM_SLOTS, BLOCK_NBYTES)

    def get(self, tier: Tier, slot: int) -> bytes:
        assert isinstance(tier, NVMeTier)
        return raw_get(tier, slot)

    def put(self, tier: Tier, slot: int, data: bytes) -> None:
        assert isinstance(tier, NVMeTier)
        tier.seal(slot, crc32c(memoryview(data)))
        raw_put(tier, slot, data)


class TestNVMeTierWithoutDirectIO(TestNVMeTier):
    """The same where every read and write goes through the page cache."""

    @pytest.fixture
    def tier(self, ram_disk: Path) -> Iterator[Tier]:
        with closing(self.make(ram_disk)) as tier:
            yield tier


@pytest.fixture
def ram_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that refuses O_DIRECT."""
    yield from mounted(tmp_path, "ramfs", "mode=700")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 256 KiB."""
    yield from mounted(tmp_path, "tmpfs", "size=256k,mode=700")


def _fd(tier: NVMeTier) -> int:
    return tier.extents(0)[0].fd


def test_is_a_file_with_checksums() -> None:
    with tempfile.TemporaryDirectory() as directory, closing(NVMeTier(Path(directory), 1, 4096)) as tier:
        assert isinstance(tier, SupportsDirectIO)
        assert isinstance(tier, SupportsChecksum)
        assert not isinstance(tier, SupportsView)


def test_nobody_else_can_look(tmp_path: Path) -> None:
    """Directory 0700, file 0600 and without a name, its blocks allocated."""
    directory = tmp_path / "a" / "b"
    with closing(NVMeTier(directory, 16, 4096)) as tier:
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        file = os.fstat(_fd(tier))
        assert stat.S_IMODE(file.st_mode) == 0o600
        assert file.st_nlink == 0
        assert file.st_size == 16 * 4096
        assert file.st_blocks * 512 >= 16 * 4096
        assert list(directory.iterdir()) == []


def test_the_file_has_no_name_while_it_is_being_allocated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Allocation may take long, and a process that is killed meanwhile must leave nothing either."""
    seen: list[list[Path]] = []
    allocate = os.posix_fallocate

    def look_and_allocate(fd: int, offset: int, nbytes: int) -> None:
        seen.append(list(tmp_path.iterdir()))
        allocate(fd, offset, nbytes)

    monkeypatch.setattr(os, "posix_fallocate", look_and_allocate)
    NVMeTier(tmp_path, 16, 4096).close()
    assert seen == [[]]


def test_takes_its_directory_away_only_if_it_made_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    NVMeTier(tmp_path, 1, 4096).close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755, "somebody else's directory is none of our business"
    made = tmp_path / "made"
    NVMeTier(made, 1, 4096).close()
    assert not made.exists()
    tier = NVMeTier(made, 1, 4096)
    (made / "notes.txt").touch()
    tier.close()
    assert [path.name for path in made.iterdir()] == ["notes.txt"]


def test_gives_every_file_descriptor_back(tmp_path: Path) -> None:
    before = open_fds()
    tier = NVMeTier(tmp_path, 4, 4096)
    tier.open_queue(4).close()
    tier.close()
    tier.close()
    assert open_fds() == before


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    with running(_OCCUPANT, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        before = open_fds()
        with pytest.raises(TierBusyError, match=f"--nvme-dir {tmp_path}: another run is using it"):
            NVMeTier(tmp_path, 4, 8192)
        assert open_fds() == before
    NVMeTier(tmp_path, 4, 8192).close()


def test_a_process_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    with running(_OCCUPANT, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert list(tmp_path.iterdir()) == []
    NVMeTier(tmp_path, 4, 8192).close()


def test_the_directory_must_be_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    for wrong in (path, path / "below", Path("/proc/1/nvme"), Path("/proc")):
        with pytest.raises(InvalidOptionError, match=f"--nvme-dir {wrong}: .*writable directory"):
            NVMeTier(wrong, 4, 8192)


@pytest.mark.parametrize("mode", [0o555, 0o333, 0o666])
def test_the_directory_must_be_ours_to_use(mode: int) -> None:
    """Seen by a user who is not root, for whom there are no permissions."""
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        directory = Path(parent, "scratch")
        directory.mkdir()
        directory.chmod(mode)
        with running(_STRANGER, directory) as process:
            output, errors = process.communicate()
        assert output.startswith(f"--nvme-dir {directory}: "), errors
        assert list(directory.iterdir()) == []


def test_a_full_disk_is_said_with_its_numbers(small_disk: Path) -> None:
    before = open_fds()
    directory = small_disk / "scratch"
    with pytest.raises(DiskFullError, match="1,048,576 bytes wanted, 262,144 free") as caught:
        NVMeTier(directory, 256, 4096)
    assert (caught.value.wanted_bytes, caught.value.available_bytes) == (2**20, 2**18)
    assert (caught.value.path, caught.value.tier) == (directory, "nvme")
    assert list(small_disk.iterdir()) == []
    assert os.statvfs(small_disk).f_bavail * 4096 == 2**18
    assert open_fds() == before
    NVMeTier(directory, 60, 4096).close()


def test_says_whether_reads_bypass_the_page_cache(tmp_path: Path) -> None:
    """Whatever the file system; those in memory have taken O_DIRECT only lately."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as in_memory:
        for directory in (tmp_path, Path(in_memory)):
            _check_direct(directory)


def _check_direct(directory: Path) -> None:
    with closing(NVMeTier(directory, 4, 4096)) as tier:
        assert tier.direct == (tier.fallback_reason is None)
        assert tier.fallback_reason is None or str(directory) in tier.fallback_reason
        with closing(tier.open_queue(2)) as queue:
            is_native = tier.direct and LinuxAIOQueue.is_supported()
            assert isinstance(queue, LinuxAIOQueue if is_native else ThreadQueue)


def test_falls_back_to_the_page_cache(ram_disk: Path) -> None:
    with closing(NVMeTier(ram_disk, 4, 4096)) as tier, closing(TransferEngine()) as engine:
        assert not tier.direct
        assert tier.fallback_reason == f"O_DIRECT refused by the file system of {ram_disk}: Invalid argument"
        fill(engine, tier, [content(i) for i in range(4)])
        target = MemoryTier("host", 4, 4096)
        for slot in range(4):
            move_one(engine, tier, target, slot, 3 - slot)
            assert target.view(3 - slot) == content(slot)


def test_a_bit_that_changes_on_the_drive_is_noticed(tmp_path: Path) -> None:
    """On both ways back into memory, and for that block only."""
    host = MemoryTier("host", 4, BLOCK_NBYTES)
    with closing(NVMeTier(tmp_path, 4, BLOCK_NBYTES)) as tier, closing(TransferEngine()) as engine:
        fill(engine, tier, [pattern(i) for i in range(4)])
        damaged = bytearray(pattern(2))
        damaged[5000] ^= 1
        raw_put(tier, 2, bytes(damaged))
        with pytest.raises(CorruptBlockError, match=f"slot 2 of {tmp_path} is corrupt"):
            move_one(engine, tier, host, 2, 0)
        with pytest.raises(CorruptBlockError, match="before a wrong token could be made"):
            tier.read(2, host.view(0))
        move_one(engine, tier, host, 3, 1)
        assert host.view(1) == pattern(3)


def test_a_file_that_shrinks_is_noticed(tmp_path: Path) -> None:
    with closing(NVMeTier(tmp_path, 4, 8192)) as tier, closing(TransferEngine()) as engine:
        fill(engine, tier, [pattern(i) for i in range(4)])
        os.ftruncate(_fd(tier), 3 * 8192 + 4096)
        with pytest.raises(TransferError, match="slot 3: 4096 of 8192 bytes moved") as caught:
            tier.read(3, memoryview(bytearray(8192)))
        assert caught.value.tier == "nvme"
        with pytest.raises(TransferError, match="4096 of 8192 bytes moved at offset 24576"):
            move_one(engine, tier, MemoryTier("host", 1, 8192), 3, 0)


def test_errors_of_the_drive_are_ours(tmp_path: Path) -> None:
    """Never a bare OSError: the file is replaced by one that cannot be read, and to which writes fail with ENOSPC."""
    with closing(NVMeTier(tmp_path, 4, 8192)) as tier:
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, _fd(tier))
        os.close(full)
        with pytest.raises(TransferError, match="slot 1: Bad file descriptor"):
            tier.read(1, memoryview(bytearray(8192)))
        with pytest.raises(DiskFullError, match="8,192 bytes wanted"):
            tier.write(1, memoryview(bytes(8192)))


def test_a_closed_tier_answers_with_errors(tmp_path: Path) -> None:
    tier = NVMeTier(tmp_path, 4, 8192)
    tier.close()
    with pytest.raises(TransferError):
        tier.read(0, memoryview(bytearray(8192)))
    with closing(TransferEngine(TransferConfig(stall_timeout_s=5))) as engine, pytest.raises(TransferError):
        move_one(engine, tier, MemoryTier("host", 1, 8192), 0, 0)
