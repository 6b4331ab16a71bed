"""A directory that comes into being all at once: filled under another name, then renamed."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from tiers.errors import DiskFullError, ModelError, TierBusyError, TierError, TransferError

_TIER = "nvme"


class PartialDirectory:
    """``with PartialDirectory(out) as partial:`` fills ``partial.path`` (mode 0700), which becomes ``out`` at the end.

    An exception or ``abandon`` removes it. A process that is killed leaves it, and the next one finds in ``path`` what
    was there. A lock keeps a second process out, which waits for it (``wait``) or gets TierBusyError. ``out`` may exist
    only if it is empty; ModelError where it cannot be made or replaced.
    """

    def __init__(self, out: Path, *, wait: bool = False) -> None:
        self.out = out
        self.path = out.with_name(out.name + ".partial")
        self._wait = wait
        self._abandoned = False
        self._lock = -1

    def __enter__(self) -> Self:
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._make_and_lock()
        except OSError as error:
            raise ModelError(f"{self.out}: cannot be written ({error.strerror}); name another place") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        published = False
        try:
            if kind is None and not self._abandoned:
                self._publish()
                published = True
        finally:
            if not published:
                shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)

    def abandon(self) -> None:
        """Nothing is to be published after all."""
        self._abandoned = True

    def require_space(self, nbytes: int) -> None:
        """DiskFullError if the file system has less room than that."""
        available = shutil.disk_usage(self.path).free
        if nbytes > available:
            raise DiskFullError(_TIER, path=self.out.parent, wanted_bytes=nbytes, available_bytes=available)

    @contextmanager
    def disk_errors(self, nbytes: int) -> Iterator[None]:
        """Around writing ``nbytes``: what the drive does wrong comes out as DiskFullError or TransferError."""
        try:
            yield
        except TierError:
            raise
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise TransferError(f"{self.path}: {error}", tier=_TIER) from error
            free = shutil.disk_usage(self.path).free
            raise DiskFullError(_TIER, path=self.path, wanted_bytes=nbytes, available_bytes=free) from error

    def _make_and_lock(self) -> int:
        while True:
            self.path.mkdir(mode=0o700, exist_ok=True)
            try:
                fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # whoever held it has just published it
            try:
                fcntl.flock(fd, fcntl.LOCK_EX if self._wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_open_as(fd, self.path):
                    return fd
            except BlockingIOError:
                os.close(fd)
                message = f"{self.path}: another process is writing it; wait for it to end or name another directory"
                raise TierBusyError(message, tier=_TIER) from None
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _publish(self) -> None:
        # Contents and names have to reach the drive before the rename does.
        for directory, _, files in os.walk(self.path):
            for name in files:
                _flush(Path(directory, name))
            _flush(Path(directory))
        try:
            self.path.rename(self.out)
        except OSError as error:
            message = f"{self.out}: cannot be replaced ({error.strerror}); remove it or name another place"
            raise ModelError(message) from None
        _flush(self.out.parent)


def create_file(path: Path, *, append: bool = False) -> BinaryIO:
    """A new file of mode 0600 in a directory made with mode 0700."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_APPEND if append else os.O_TRUNC)
    return os.fdopen(os.open(path, flags, 0o600), "wb", buffering=1024 * 1024)


def flush_file(file: BinaryIO) -> None:
    """Everything written so far is on the drive, and out of the page cache, which has better uses."""
    file.flush()
    os.fsync(file.fileno())
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_file(path: Path, data: bytes) -> None:
    """A whole small file, flushed."""
    with create_file(path) as file:
        file.write(data)
        flush_file(file)


def _is_open_as(fd: int, path: Path) -> bool:
    """Whether the path still names the directory that was opened."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
