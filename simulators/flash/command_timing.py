"""Seconds of the commands of an emulated drive, from the trace of what its flash did."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from simulators.flash.drive import DriveParameters
from simulators.flash.engines import EngineWork
from simulators.flash.makespan import Makespan, exact_s
from simulators.flash.timing import FlashTiming, PagesTouched, Phase
from tiers.csd.trace import COPIED, ERASED, PROGRAMMED
from tiers.errors import InvalidOptionError

Numbers = NDArray[np.int64]


class Geometry(Protocol):
    """Of the emulated flash: page ``n + 1`` lies on the next channel, behind the last channel on the next die."""

    @property
    def channels(self) -> int: ...
    @property
    def dies_per_channel(self) -> int: ...
    @property
    def page_nbytes(self) -> int: ...


class Heads(Protocol):
    """Of the model, as the drive was configured."""

    @property
    def kv_heads(self) -> int: ...
    @property
    def heads_per_kv(self) -> int: ...
    @property
    def head_dim(self) -> int: ...


class Trace(Protocol):
    """Physical pages by phase."""

    @property
    def phases(self) -> Mapping[str, Numbers]: ...


class CarriedOut(Protocol):
    """One command as the emulated drive carried it out; ``num_tokens`` of each sequence."""

    @property
    def config(self) -> Heads: ...
    @property
    def geometry(self) -> Geometry: ...
    @property
    def num_tokens(self) -> Sequence[int]: ...
    @property
    def sent_nbytes(self) -> int: ...
    @property
    def received_nbytes(self) -> int: ...
    @property
    def trace(self) -> Trace: ...


class _Parts(NamedTuple):
    read: dict[str, Numbers]
    programmed: PagesTouched
    copied: PagesTouched
    erased: PagesTouched


class CommandTiming:
    """The timing of one emulated drive: a model of ``drive``, whose geometry has to be the emulated one's.

    The trace says which pages were read, not which entries of them passed the filter: arithmetic is that of whole
    pages, its upper bound. What the engines do with the pages of a phase follows from its name. They read ``channels``
    for a score of every token and ``summaries`` for one of every group, and rank these scores; ``keys`` are scored and
    ``values`` weighed; pages of any other phase are half of them keys and half values. Summaries in the drive's memory
    cost nothing here.

    Groups that were flushed and blocks that were erased since the command before were so in the background. From the
    next command on, so the shortest of lives, their dies are busy; a command waits for them where it reads from these
    dies, and what is not done when it ends goes on behind it. The host takes no time for itself between commands, so
    that these waits are an upper bound too.
    """

    def __init__(self, drive: DriveParameters, makespan: Makespan = exact_s) -> None:
        self._timing = FlashTiming(drive, makespan)
        self._busy_s = np.zeros(drive.num_dies)

    def attend_s(self, work: CarriedOut) -> float:
        """From submission to completion."""
        parts = self._parts(work)
        phases = [Phase(self._touched(pages), _work(work, name, len(pages))) for name, pages in parts.read.items()]
        jobs = max(1, work.config.kv_heads * len(work.num_tokens))
        self._add_background(parts)
        return self._passed(
            self._timing.attend_s(
                phases, jobs=jobs, nbytes_in=work.sent_nbytes, nbytes_out=work.received_nbytes, busy_s=self._busy_s
            ).seconds
        )

    def write_s(self, work: CarriedOut) -> float:
        """Bytes arrive while pages that are full already are programmed; it is done when all of them are.

        Keys that are read back for the channel index come before the programs.
        """
        parts = self._parts(work)
        drive = self._timing.drive
        copies_s = self._timing.read_s(parts.copied, self._busy_s)
        programs_s = self._timing.write_s(parts.programmed, parts.erased, self._busy_s - copies_s)
        return self._passed(drive.firmware_s + max(self._link_s(work), copies_s + programs_s))

    def read_s(self, work: CarriedOut) -> float:
        """Pages come while those before them leave over the link."""
        parts = self._parts(work)
        self._add_background(parts)
        reads_s = sum(self._timing.read_s(self._touched(pages), self._busy_s) for pages in parts.read.values())
        return self._passed(self._timing.drive.firmware_s + max(self._link_s(work), reads_s))

    def _add_background(self, parts: _Parts) -> None:
        self._busy_s += self._timing.background_s(parts.programmed, parts.erased, parts.copied)

    def _link_s(self, work: CarriedOut) -> float:
        return self._timing.drive.link_s(work.sent_nbytes + work.received_nbytes)

    def _passed(self, seconds: float) -> float:
        self._busy_s = np.maximum(self._busy_s - seconds, 0.0)
        return seconds

    def _parts(self, work: CarriedOut) -> _Parts:
        drive, geometry = self._timing.drive, work.geometry
        for name in ("channels", "dies_per_channel", "page_nbytes"):
            if getattr(drive, name) != getattr(geometry, name):
                raise InvalidOptionError(
                    f"the emulated drive has {name} {getattr(geometry, name)}, the timing of '{drive.name}' has "
                    f"{getattr(drive, name)}; give both the same"
                )
        phases = dict(work.trace.phases)
        none = np.empty(0, np.int64)
        # The number of an erase block names its die as that of a page does: both count dies first.
        others = (self._touched(phases.pop(name, none)) for name in (PROGRAMMED, COPIED, ERASED))
        return _Parts(phases, *others)

    def _touched(self, numbers: Numbers) -> PagesTouched:
        drive = self._timing.drive
        row, die = np.divmod(numbers, drive.num_dies)
        return PagesTouched(die % drive.channels, die // drive.channels, row // drive.pages_per_sense)


def _work(work: CarriedOut, phase: str, num_pages: int) -> EngineWork:
    """Of a phase of an attention; see ``CommandTiming``."""
    config, page_nbytes = work.config, work.geometry.page_nbytes
    per_page = page_nbytes // (2 * config.head_dim)
    rows = num_pages * per_page
    flops = num_pages * page_nbytes * config.heads_per_kv  # two for each number of two bytes
    match phase:
        case "channels":
            estimated = config.kv_heads * sum(work.num_tokens)
            return EngineWork(flops, scores=config.heads_per_kv * estimated, ranked=estimated)
        case "summaries":
            estimated = config.kv_heads * sum(tokens // per_page for tokens in work.num_tokens)
            return EngineWork(flops, scores=config.heads_per_kv * estimated, ranked=estimated)
        case "keys":
            return EngineWork(flops, scores=config.heads_per_kv * rows)
        case "values":
            return EngineWork(weighing_flops=flops)
        case _:
            # Where everything is read, tokens that wait in memory have a score too.
            keys = config.kv_heads * sum(work.num_tokens) if phase == "attend" else rows // 2
            return EngineWork(flops / 2, weighing_flops=flops / 2, scores=config.heads_per_kv * keys)
