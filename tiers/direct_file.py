"""A file that is only read, with O_DIRECT where the file system allows it."""

import mmap
import os
from pathlib import Path

import numpy as np

from tiers.errors import ModelError, TransferError
from tiers.tier import ALIGNMENT, align_up

_BOUNCE_NBYTES = 1024 * 1024


class DirectFile:
    """An open file. ``direct`` tells whether reads bypass the page cache, ``size`` is its length when it was opened.

    Reads are safe from several threads. Raises ModelError where the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            direct_fd = _open_direct(path)
            self.direct = direct_fd is not None
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC) if direct_fd is None else direct_fd
        except OSError as error:
            raise ModelError(f"{path}: {error.strerror}; check the path and its permissions") from None
        self.size = os.fstat(self.fd).st_size

    def read_into(self, offset: int, buffer: memoryview, required: int, *, tier: str) -> None:
        """Read at ``offset``, a multiple of ALIGNMENT, until ``required`` bytes are in ``buffer``.

        A buffer whose address or length O_DIRECT does not take is filled through a small aligned one. Raises
        TransferError, also when the file has become shorter than it was.
        """
        if not self.direct or _is_aligned(buffer):
            self._read_all(offset, buffer, required, tier)
            return
        bounce = memoryview(mmap.mmap(-1, min(_BOUNCE_NBYTES, align_up(buffer.nbytes))))
        for start in range(0, required, bounce.nbytes):
            nbytes = min(bounce.nbytes, required - start)
            self._read_all(offset + start, bounce[: align_up(nbytes)], nbytes, tier)
            buffer[start : start + nbytes] = bounce[:nbytes]

    def close(self) -> None:
        """Closing twice does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _read_all(self, offset: int, buffer: memoryview, required: int, tier: str) -> None:
        done = 0
        while done < required:
            try:
                moved = os.preadv(self.fd, [buffer[done:]], offset + done)
            except OSError as error:
                raise TransferError(f"{self.path}: read at {offset + done:,}: {error.strerror}", tier=tier) from error
            if moved == 0:
                short = f"ends at byte {offset + done:,}, {required - done:,} bytes short"
                raise TransferError(f"{self.path}: {short}; it has changed since it was opened", tier=tier)
            done += moved


def _open_direct(path: Path) -> int | None:
    """A descriptor with O_DIRECT, proven by a read: some file systems take the flag and then refuse the reads."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    except OSError:
        return None
    try:
        os.preadv(fd, [mmap.mmap(-1, ALIGNMENT)], 0)
    except OSError:
        os.close(fd)
        return None
    return fd


def _is_aligned(buffer: memoryview) -> bool:
    address = int(np.frombuffer(buffer, np.uint8).ctypes.data) if buffer.nbytes else 0
    return address % ALIGNMENT == 0 and buffer.nbytes % ALIGNMENT == 0
