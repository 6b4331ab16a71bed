"""How long what an emulated drive did would take on a real one: the seam; models of it live in ``simulators``."""

from dataclasses import dataclass
from typing import Protocol

from tiers.csd.commands import Config
from tiers.csd.geometry import FlashGeometry
from tiers.csd.trace import Trace


@dataclass(frozen=True, slots=True)
class DriveWork:
    """One command as it was carried out.

    ``num_tokens``: of each sequence, those that were attended to (Attend), written (WriteKV) or read (ReadKV).
    ``trace``: physical pages; ``geometry.places_of`` says on which channel and die they lie. What the drive did in the
    background since the command before (programs, erases) is part of it.
    """

    config: Config
    geometry: FlashGeometry
    num_tokens: tuple[int, ...]
    sent_nbytes: int
    received_nbytes: int
    trace: Trace


class DriveTiming(Protocol):
    """Seconds that commands would take, given the pages that were really touched.

    Commands come one behind the other, and what the drive does in the background goes on from one to the next. How long
    a real host would take between them is not known.
    """

    def attend_s(self, work: DriveWork) -> float:
        """From the submission of an Attend to its completion, with what it waits for of the background."""
        ...

    def write_s(self, work: DriveWork) -> float:
        """The same of a WriteKV."""
        ...

    def read_s(self, work: DriveWork) -> float:
        """The same of a ReadKV."""
        ...
