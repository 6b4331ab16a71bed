"""Scratch space on a drive for blocks that leave memory: one preallocated file, O_DIRECT, a checksum per slot.

The file has no name: it is unlinked as soon as it is open, so that a process that dies, however it dies, leaves neither
disk space nor anybody's KV cache behind. A lock on the directory keeps a second user out, whose budget would not know
of ours. Nothing here survives the process, hence no fsync; what must survive lives in a packed store.
"""

import errno
import fcntl
import mmap
import os
import tempfile
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from tiers.checksum import crc32c
from tiers.errors import CorruptBlockError, DiskFullError, InvalidOptionError, TierBusyError, TransferError
from tiers.io_queue import IOQueue, open_queue
from tiers.tier import ALIGNMENT, Extent, Tier

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class NVMeTier(Tier):
    """``num_slots`` slots in an unlinked file under ``directory`` (made with mode 0700 if it is missing).

    ``direct`` tells whether O_DIRECT works there; where not, ``fallback_reason`` says why and reads go through the page
    cache. Raises InvalidOptionError (not a writable directory), TierBusyError (another tier is there), DiskFullError.
    """

    def __init__(self, directory: Path, num_slots: int, block_nbytes: int, name: str = "nvme") -> None:
        assert block_nbytes % ALIGNMENT == 0, "O_DIRECT moves whole pages"
        self.name = name
        self.num_slots = num_slots
        self.block_nbytes = block_nbytes
        self.directory = directory
        self._checksums = array("L", bytes(8 * num_slots))
        self._made_directory = make_directory(directory)
        self._lock = _lock_directory(directory, name)
        try:
            self._fd, self.fallback_reason = self._create_file()
            self.direct = self.fallback_reason is None
        except BaseException:
            self._unlock()
            raise

    def extents(self, slot: int) -> Sequence[Extent]:
        return (Extent(self._fd, slot * self.block_nbytes, self.block_nbytes, self.block_nbytes),)

    def open_queue(self, depth: int) -> IOQueue:
        return open_queue(depth, direct=self.direct)

    def seal(self, slot: int, checksum: int) -> None:
        self._checksums[slot] = checksum

    def verify(self, slot: int, checksum: int) -> None:
        expected = self._checksums[slot]
        if checksum != expected:
            block = f"slot {slot} of {self.directory}"
            raise CorruptBlockError(self.name, block=block, expected=expected, found=checksum)

    def read(self, slot: int, buffer: memoryview) -> None:
        block = memoryview(mmap.mmap(-1, self.block_nbytes))
        self._move(os.preadv, slot, block)
        self.verify(slot, crc32c(block))
        buffer[:] = block[: buffer.nbytes]

    def write(self, slot: int, buffer: memoryview) -> None:
        block = memoryview(mmap.mmap(-1, self.block_nbytes))
        block[: buffer.nbytes] = buffer
        self.seal(slot, crc32c(block))
        self._move(os.pwritev, slot, block)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._unlock()

    def _move(self, move: Callable[[int, list[memoryview], int], int], slot: int, block: memoryview) -> None:
        try:
            moved = move(self._fd, [block], slot * self.block_nbytes)
        except OSError as error:
            if error.errno in _NO_ROOM:
                raise _disk_full(self.directory, self.name, self.block_nbytes) from error
            raise TransferError(f"{self.directory}: slot {slot}: {error.strerror}", tier=self.name) from error
        if moved != self.block_nbytes:
            raise TransferError(
                f"{self.directory}: slot {slot}: {moved} of {self.block_nbytes} bytes moved", tier=self.name
            )

    def _create_file(self) -> tuple[int, str | None]:
        """The open file and, where O_DIRECT does not work, why."""
        nbytes = self.num_slots * self.block_nbytes
        fd = _open_nameless(self.directory, self.name, nbytes)
        try:
            _preallocate(fd, nbytes, self.directory, self.name)
            direct_fd, reason = _reopen_direct(fd, self.directory)
        except BaseException:
            os.close(fd)
            raise
        if direct_fd is None:
            return fd, reason
        os.close(fd)
        return direct_fd, None

    def _unlock(self) -> None:
        # The directory goes while it is still locked: a moment later it may be somebody else's.
        if self._made_directory:
            with suppress(OSError):  # somebody put files there
                self.directory.rmdir()
        os.close(self._lock)


def make_directory(directory: Path) -> bool:
    """Have a directory that only we may look into; whether it was made. Raises InvalidOptionError."""
    try:
        directory.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        if not directory.is_dir() or not os.access(directory, os.W_OK | os.X_OK):
            raise InvalidOptionError(f"--nvme-dir {directory}: not a writable directory; name another one") from None
        return False
    except OSError as error:
        raise _unusable(directory, error) from None
    return True


def _lock_directory(directory: Path, tier: str) -> int:
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise _unusable(directory, error) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise TierBusyError(
            f"--nvme-dir {directory}: another run is using it; wait for it to end or name another directory", tier=tier
        ) from None
    except OSError as error:
        os.close(fd)
        raise _unusable(directory, error) from None
    return fd


def _open_nameless(directory: Path, tier: str, nbytes: int) -> int:
    """A new file of mode 0600, unlinked before it holds anything: whatever kills us from here on leaves nothing."""
    try:
        fd, path = tempfile.mkstemp(suffix=".blocks", prefix=f"{tier}-", dir=directory)
        Path(path).unlink()
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise _disk_full(directory, tier, nbytes) from None
        raise _unusable(directory, error) from None
    return fd


def _preallocate(fd: int, nbytes: int, directory: Path, tier: str) -> None:
    try:
        if nbytes:
            os.posix_fallocate(fd, 0, nbytes)
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise _disk_full(directory, tier, nbytes) from None
        raise _unusable(directory, error) from None


def _reopen_direct(fd: int, directory: Path) -> tuple[int | None, str | None]:
    """Open again with O_DIRECT and prove it by a read: some file systems accept the flag and then refuse the I/O."""
    try:
        direct_fd = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_DIRECT)
    except OSError as error:
        return None, f"O_DIRECT refused by the file system of {directory}: {error.strerror}"
    try:
        os.preadv(direct_fd, [mmap.mmap(-1, ALIGNMENT)], 0)
    except OSError as error:
        os.close(direct_fd)
        return None, f"O_DIRECT accepted but not usable on {directory}: {error.strerror}"
    return direct_fd, None


def _disk_full(directory: Path, tier: str, wanted_bytes: int) -> DiskFullError:
    stat = os.statvfs(directory)
    free = stat.f_bavail * stat.f_frsize
    return DiskFullError(tier, path=directory, wanted_bytes=wanted_bytes, available_bytes=free)


def _unusable(directory: Path, error: OSError) -> InvalidOptionError:
    return InvalidOptionError(f"--nvme-dir {directory}: {error.strerror}; name a writable directory")
