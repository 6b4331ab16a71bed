"""How the drive tells the host of an error, so that the host raises the same one."""

from enum import IntEnum
from typing import Any

from tiers.errors import (
    CorruptBlockError,
    DeviceGoneError,
    DiskFullError,
    DriveFullError,
    InvalidOptionError,
    OffloadError,
    TierBusyError,
    TokensLostError,
    TransferError,
)

_MOST_TEXT = 2000


class Status(IntEnum):
    """Of a completion."""

    OK = 0
    INVALID = 1
    FULL = 2
    TOKENS_LOST = 3
    CORRUPT = 4
    IO_FAILED = 5
    BUSY = 6
    DISK_FULL = 7
    BROKEN = 8
    """The drive met what it was not made for, and stops rather than go on with books that may be wrong."""


_STATUS_OF: dict[type[OffloadError], Status] = {
    InvalidOptionError: Status.INVALID,
    DriveFullError: Status.FULL,
    TokensLostError: Status.TOKENS_LOST,
    CorruptBlockError: Status.CORRUPT,
    TransferError: Status.IO_FAILED,
    TierBusyError: Status.BUSY,
    DiskFullError: Status.DISK_FULL,
    DeviceGoneError: Status.BROKEN,
}
_CLASS_OF = {status: kind for kind, status in _STATUS_OF.items()}


def describe(error: OffloadError) -> tuple[Status, dict[str, Any]]:
    """A status, and fields for JSON."""
    attributes = {
        name: _cut(value) if isinstance(value, str) else value
        for name, value in vars(error).items()
        if isinstance(value, int | float | str)
    }
    return _STATUS_OF.get(type(error), Status.BROKEN), {"message": _cut(str(error)), "attributes": attributes}


def describe_unexpected(error: Exception, name: str) -> dict[str, Any]:
    """Fields for a drive that is BROKEN."""
    what = _cut(f"{type(error).__name__}: {error}")
    return {
        "message": f"tier '{name}': the drive met an error of its own and stopped ({what}); please report it",
        "attributes": {"tier": name},
    }


def _cut(text: str) -> str:
    """So that a reply holds it, whatever names it quotes; JSON may write six bytes for a character."""
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]}..."


def rebuild(status: Status, fields: dict[str, Any]) -> OffloadError:
    """The error that ``describe`` was given; its numbers are attributes again."""
    kind = _CLASS_OF[status]
    error = kind.__new__(kind, fields["message"])
    error.args = (fields["message"],)
    vars(error).update(fields["attributes"])
    return error
