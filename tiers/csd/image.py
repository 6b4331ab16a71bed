"""The file in which an emulated drive keeps its flash: a header, the journal, the pages.

It is written with plain writes and read through a mapping, both by way of the page cache, which plays the role of the
drive's own buffers. O_DIRECT would be the wrong choice here: how fast this machine's disk is says nothing about the
flash that is emulated (a model of time does that, from the pages that are touched), and tokens that were written one
step at a time lie in single pages, whose gathering would cost a system call each. The mapping gives pages that lie
together without a copy, and gathers the others in one.
"""

import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tiers.checksum import crc32c
from tiers.csd.geometry import FlashGeometry, PageNumbers
from tiers.errors import DiskFullError, InvalidOptionError, TierBusyError, TransferError
from tiers.slots import align_up

VERSION = 2

_MAGIC = b"OFFLDCSD"
_HEADER = struct.Struct("<8sII6Q")  # magic, CRC32C of what follows, version, geometry
_HEADER_NBYTES = 4096
_JOURNAL_NBYTES_PER_PAGE = 56
"""The state (20 bytes a page, 12 a block), and behind it a record of 20 bytes a page."""
_JOURNAL_SLACK_NBYTES = 1 << 20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Bytes = NDArray[np.uint8]


class ImageFile:
    """The open file, and the one place from which it is written: a test that replaces ``write`` can cut the power."""

    def __init__(self, path: Path, fd: int, nbytes: int) -> None:
        self.path = path
        self.fd = fd
        self._mapping = mmap.mmap(fd, nbytes, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED)
        self.bytes: Bytes = np.frombuffer(self._mapping, np.uint8)
        """All of it, to be read."""

    def write(self, offset: int, data: memoryview) -> None:
        """Write all of ``data``; raises TransferError."""
        done = 0
        while done < data.nbytes:
            try:
                moved = os.pwrite(self.fd, data[done:], offset + done)
            except OSError as error:
                raise TransferError(f"{self.path}: write at {offset + done:,}: {error.strerror}", tier="csd") from error
            done += moved

    def close(self) -> None:
        """Somebody else may open the image now. The mapping goes with the last array that looks at it."""
        fcntl.flock(self.fd, fcntl.LOCK_UN)  # which the mapping's own descriptor would keep
        os.close(self.fd)


class FlashImage:
    """Pages and journal areas of one image. ``was_made`` says that there was no image before."""

    def __init__(self, path: Path, geometry: FlashGeometry, *, keep: bool) -> None:
        """Open ``path``, or make it with mode 0600 and all of its space allocated.

        Unless ``keep``, it has to be new, and loses its name at once, so that whatever kills us leaves nothing behind.
        Raises InvalidOptionError (another version or geometry, not a writable place), TierBusyError, DiskFullError.
        """
        self.geometry = geometry
        area_nbytes = align_up(_JOURNAL_NBYTES_PER_PAGE * geometry.num_pages + _JOURNAL_SLACK_NBYTES)
        self.journal_areas = (
            range(_HEADER_NBYTES, _HEADER_NBYTES + area_nbytes),
            range(_HEADER_NBYTES + area_nbytes, _HEADER_NBYTES + 2 * area_nbytes),
        )
        self._first_page = align_up(self.journal_areas[1].stop, geometry.page_nbytes)
        nbytes = self._first_page + geometry.capacity_nbytes
        fd, self.was_made = _open(path, geometry, nbytes, must_be_new=not keep)
        if not keep:
            path.unlink()
        self.file = ImageFile(path, fd, nbytes)
        flat = self.file.bytes[self._first_page :]
        self._pages: Bytes = flat.reshape(geometry.num_pages, geometry.page_nbytes)

    def read(self, pages: PageNumbers) -> Bytes:
        """[n, page_nbytes]: a view where the pages lie one behind the other, else a copy."""
        n = pages.size
        if n and pages[-1] - pages[0] == n - 1 and bool((pages[1:] - pages[:-1] == 1).all()):
            first = int(pages[0])
            return self._pages[first : first + n]
        return self._pages[pages]

    def program(self, pages: PageNumbers, data: Bytes) -> None:
        """Write ``data`` [n, page_nbytes], each run of neighbours at once."""
        cuts = np.flatnonzero(np.diff(pages) != 1) + 1
        starts = [0, *cuts.tolist()]
        for start, stop in zip(starts, [*starts[1:], pages.size], strict=True):
            offset = self._first_page + int(pages[start]) * self.geometry.page_nbytes
            self.file.write(offset, data[start:stop].reshape(-1).data)

    def close(self) -> None:
        self.file.close()


def _open(path: Path, geometry: FlashGeometry, nbytes: int, *, must_be_new: bool) -> tuple[int, bool]:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_EXCL if must_be_new else 0)
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as error:
        raise InvalidOptionError(f"flash image {path}: {error.strerror}; name another file") from None
    try:
        _lock(fd, path)
        was_made = os.fstat(fd).st_size == 0
        if was_made:
            _allocate(fd, path, geometry, nbytes)
        else:
            _check_header(os.pread(fd, _HEADER.size, 0), path, geometry)
            _check_size(os.fstat(fd).st_size, path, nbytes)
    except BaseException:
        os.close(fd)
        raise
    return fd, was_made


def _lock(fd: int, path: Path) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise TierBusyError(f"flash image {path}: another drive is using it; name another file", tier="csd") from None


def _allocate(fd: int, path: Path, geometry: FlashGeometry, nbytes: int) -> None:
    free = _free_nbytes(path)
    if nbytes > free:  # the allocation itself would take all that is left before it fails
        path.unlink()
        raise DiskFullError("csd", path=path, wanted_bytes=nbytes, available_bytes=free)
    try:
        os.posix_fallocate(fd, 0, nbytes)
        # Last, and in one write: an image that was only half made has no header and is not taken for one.
        os.pwrite(fd, _header(geometry), 0)
    except OSError as error:
        path.unlink(missing_ok=True)
        if error.errno in _NO_ROOM:
            raise DiskFullError("csd", path=path, wanted_bytes=nbytes, available_bytes=free) from None
        raise InvalidOptionError(f"flash image {path}: {error.strerror}; name another file") from None


def _free_nbytes(path: Path) -> int:
    stat = os.statvfs(path.parent)
    return stat.f_bavail * stat.f_frsize


def _header(geometry: FlashGeometry) -> bytes:
    content = _HEADER.pack(_MAGIC, 0, VERSION, *astuple(geometry))[12:]
    return _MAGIC + struct.pack("<I", crc32c(memoryview(content))) + content


def _check_header(found: bytes, path: Path, geometry: FlashGeometry) -> None:
    if len(found) < _HEADER.size or not found.startswith(_MAGIC):
        raise _unusable(path, "it is not a flash image")
    _, crc, version, *numbers = _HEADER.unpack(found)
    if version != VERSION:
        raise _unusable(path, f"it has version {version}, this is version {VERSION}")
    if crc != crc32c(memoryview(found[12:])):
        raise _unusable(path, "its header is damaged")
    if wrong := _differences(numbers, geometry):
        raise _unusable(path, f"its geometry is another one ({', '.join(wrong)})")


def _check_size(found: int, path: Path, nbytes: int) -> None:
    if found != nbytes:
        raise _unusable(path, f"it is {found:,} bytes long and should be {nbytes:,}")


def _differences(numbers: Sequence[int], geometry: FlashGeometry) -> list[str]:
    names = [field.name for field in fields(geometry)]
    pairs = zip(names, numbers, astuple(geometry), strict=True)
    return [f"{name} {found}, not {wanted}" for name, found, wanted in pairs if found != wanted]


def _unusable(path: Path, what: str) -> InvalidOptionError:
    return InvalidOptionError(f"flash image {path}: {what}; remove it or name another file")
