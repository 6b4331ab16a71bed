"""Every error this project raises on purpose.

    OffloadError
    ├── UsageError              the caller can mend it: exit status 2
    │   ├── InvalidOptionError      an option or a size that cannot be read            (ValueError)
    │   ├── ModelError              a model that is missing, incomplete or unsupported  (ValueError)
    │   ├── BudgetError             a budget in which the model cannot run             (ValueError)
    │   ├── TraceError              a trace that cannot be read or does not fit         (ValueError)
    │   └── PolicyError             a policy or predictor of somebody else's does not do what they do
    └── WorldError              the machine or its disks failed: exit status 1
        ├── TierError               something is wrong with one tier
        │   ├── TierFullError           no slot can be freed
        │   ├── TierBusyError           another process holds the directory
        │   ├── DiskFullError           the file system has no room                    (OSError)
        │   ├── TransferError           a read or a write failed or came up short      (OSError)
        │   ├── CorruptBlockError       bytes came back other than they left
        │   ├── DriveFullError          a computing drive has no flash or no memory left
        │   ├── DeviceGoneError         the process behind a computing drive died or does not answer
        │   └── TokensLostError         tokens that a computing drive held only in its memory, or wrongly, are gone
        └── TransferCancelledError  somebody waited for a transfer that was cancelled

Messages say what, the value and the cure in one line, because the command line prints them as they are. Numbers that a
caller may want to act on are attributes.
"""

from pathlib import Path


class OffloadError(Exception):
    """Base of the tree."""


class UsageError(OffloadError):
    """The caller asked for something that cannot be done as asked."""


class InvalidOptionError(UsageError, ValueError):
    """An option, a size or a configuration key that cannot be read."""


class ModelError(UsageError, ValueError):
    """A model that is missing, incomplete, damaged or of an architecture that we cannot run."""


class BudgetError(UsageError, ValueError):
    """The budget does not hold the smallest working set.

    Attributes: ``wanted_bytes`` (the smallest budget that works) and ``available_bytes`` (the budget that was given).
    """

    def __init__(self, message: str, *, wanted_bytes: int, available_bytes: int) -> None:
        super().__init__(message)
        self.wanted_bytes = wanted_bytes
        self.available_bytes = available_bytes


class TraceError(UsageError, ValueError):
    """A trace that is missing, damaged, of another format or of another model."""


class PolicyError(UsageError):
    """A policy or predictor that is not ours raised something, or broke its contract; names it and the method."""


class WorkloadWarning(UserWarning):
    """A workload by which policies cannot be told from each other. No error: the command line says it on stderr."""


class WorldError(OffloadError):
    """The request was fine; the machine could not carry it out."""


class TierError(WorldError):
    """Something is wrong with one tier, named by ``tier``."""

    def __init__(self, message: str, *, tier: str) -> None:
        super().__init__(message)
        self.tier = tier


class TierFullError(TierError):
    """No slot is free and none can be freed. Attributes: ``wanted_slots``, ``available_slots``."""

    def __init__(self, tier: str, *, wanted_slots: int, available_slots: int, cure: str = "raise its budget") -> None:
        message = f"tier '{tier}' is full: {wanted_slots} blocks wanted, room for {available_slots}; {cure}"
        super().__init__(message, tier=tier)
        self.wanted_slots = wanted_slots
        self.available_slots = available_slots


class TierBusyError(TierError):
    """Another process holds the directory of a tier."""


class DiskFullError(TierError, OSError):
    """The file system cannot hold what was asked of it. Attributes: ``path``, ``wanted_bytes``, ``available_bytes``."""

    def __init__(self, tier: str, *, path: Path, wanted_bytes: int, available_bytes: int) -> None:
        super().__init__(
            f"{path}: {wanted_bytes:,} bytes wanted, {available_bytes:,} free; "
            "free some space or name another directory",
            tier=tier,
        )
        self.path = path
        self.wanted_bytes = wanted_bytes
        self.available_bytes = available_bytes


class TransferError(TierError, OSError):
    """A read or a write failed, or moved fewer bytes than asked."""


class CorruptBlockError(TierError):
    """The checksum of a block that came back is not the one with which it left. Attribute: ``block``."""

    def __init__(self, tier: str, *, block: object, expected: int, found: int) -> None:
        super().__init__(
            f"tier '{tier}': {block} is corrupt (CRC32C {found:#010x}, expected {expected:#010x}); "
            "the request was stopped before a wrong token could be made",
            tier=tier,
        )
        self.block = block
        self.expected = expected
        self.found = found


class DriveFullError(TierError):
    """A computing drive has no room, not even after erasing all that is dead. ``wanted_nbytes``, ``available_nbytes``.

    ``what`` is "flash" or "memory". The command that met it changed nothing.
    """

    def __init__(self, tier: str, *, what: str, wanted_nbytes: int, available_nbytes: int, cure: str) -> None:
        super().__init__(
            f"tier '{tier}': {wanted_nbytes:,} bytes of {what} wanted, {available_nbytes:,} left after reclaim; {cure}",
            tier=tier,
        )
        self.what = what
        self.wanted_nbytes = wanted_nbytes
        self.available_nbytes = available_nbytes


class DeviceGoneError(TierError):
    """The process behind a computing drive died, or did not answer in time; what it held is gone with it."""


class TokensLostError(TierError):
    """A command goes on from tokens that the drive does not hold, as after its process died.

    Attributes: ``sequence``, ``layer``, ``wanted_tokens`` (from where the command goes on), ``held_tokens``.
    """

    def __init__(self, tier: str, *, sequence: int, layer: int, wanted_tokens: int, held_tokens: int) -> None:
        super().__init__(
            f"tier '{tier}': sequence {sequence}, layer {layer}: the command goes on from token {wanted_tokens:,}, the "
            f"drive holds {held_tokens:,}; write from token {held_tokens:,} again",
            tier=tier,
        )
        self.sequence = sequence
        self.layer = layer
        self.wanted_tokens = wanted_tokens
        self.held_tokens = held_tokens


class TransferCancelledError(WorldError):
    """Somebody waited for a transfer that had been cancelled."""


def first_line(said: object) -> str:
    """What an error of somebody else, or what they printed, begins with: the rest is about their insides."""
    return next(iter(str(said).strip().splitlines()), "no reason given")
