"""Seconds of the commands of a computing drive, from the pages that they touch."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulators.flash.drive import DriveParameters
from simulators.flash.engines import EngineWork, engine_stations_s, pipeline_s, weighing_s
from simulators.flash.makespan import Makespan, exact_s
from simulators.flash.operations import (
    Floats,
    OperationTimes,
    erase_kind,
    operation_times,
    program_kinds,
    queues_of,
    read_kinds,
    with_waits,
)
from tiers.errors import InvalidOptionError

Places = NDArray[np.int64]
_Asked = tuple[Places, Places, NDArray[np.uint8]]
"""Channel, die and kind of operations."""


@dataclass(frozen=True, slots=True)
class PagesTouched:
    """Where pages lie, one entry per page in the order of their use: channel, die of the channel, row of the die.

    Pages of one row lie on the planes of a die: those that a die is asked for one after the other are sensed together,
    up to ``pages_per_sense`` of them. Without rows every page has a sense of its own.
    """

    channel: ArrayLike
    die: ArrayLike
    row: ArrayLike | None = None

    @property
    def num_pages(self) -> int:
        """How many."""
        return np.asarray(self.channel).size

    @staticmethod
    def joined(parts: Sequence["PagesTouched"]) -> "PagesTouched":
        """One after the other; with rows only where all have them."""
        rows = [part.row for part in parts if part.row is not None]
        return PagesTouched(
            np.concatenate([part.channel for part in parts]),
            np.concatenate([part.die for part in parts]),
            np.concatenate(rows) if len(rows) == len(parts) else None,
        )


@dataclass(frozen=True, slots=True)
class Phase:
    """Pages that can be asked for together, and the arithmetic on them; the next phase depends on its result."""

    pages: PagesTouched
    work: EngineWork = field(default_factory=EngineWork)


@dataclass(frozen=True, slots=True)
class AttendTime:
    """``seconds`` of a command, and how long each station was busy; ``weigh`` is the one beside which no other is."""

    seconds: float
    stations_s: dict[str, float]


class FlashTiming:
    """Times of one drive. ``makespan`` is the fidelity: ``exact_s`` or ``closed_form_s``. Holds no state."""

    def __init__(self, drive: DriveParameters, makespan: Makespan = exact_s) -> None:
        self.drive = drive
        self._makespan = makespan
        self._times: OperationTimes = operation_times(drive)

    def read_s(self, pages: PagesTouched, busy_s: Floats | None = None) -> float:
        """Until the last page has passed the filter of its channel; ``busy_s`` as for ``attend_s``."""
        return self._run_s(*self._senses(pages), busy_s)

    def write_s(self, pages: PagesTouched, erased: PagesTouched | None = None, busy_s: Floats | None = None) -> float:
        """Programs of pages that wait in the device's memory, a die's pages together; then erases of blocks.

        ``busy_s`` as for ``attend_s``.
        """
        return self._together_s(self._background(pages, erased), busy_s)

    def link_s(self, nbytes: float) -> float:
        """Between host or GPU and the drive."""
        return self.drive.link_s(nbytes)

    def attend_s(
        self,
        phases: Sequence[Phase],
        *,
        jobs: int = 1,
        nbytes_in: float = 0.0,
        nbytes_out: float = 0.0,
        flushed: PagesTouched | None = None,
        busy_s: Floats | None = None,
    ) -> AttendTime:
        """Attention over ``phases``, each with the pages and the arithmetic of all heads and sequences together.

        ``jobs`` of them (KV heads x sequences) are alike and independent: while one waits for its top-k another reads.
        With one, its phases follow each other. ``flushed`` are pages of full groups that are programmed meanwhile: they
        go before the reads of their dies, and the command is done when they are. ``busy_s`` [num_dies], see
        ``background_s``: so long dies are busy with what the command waits for only where it reads from them. Returned
        bytes follow at the end, those sent come first.
        """
        if jobs < 1:
            raise InvalidOptionError(f"an attend command of {jobs} jobs; there has to be at least 1")
        work = sum((phase.work for phase in phases), EngineWork())
        flash_s = self._flash_s(phases, jobs, [] if flushed is None else [self._programs(flushed)], busy_s)
        stations = {"flash": flash_s} | engine_stations_s(self.drive, work)
        link_s = self.link_s(nbytes_in) + self.link_s(nbytes_out)
        weigh_s = weighing_s(self.drive, work)
        seconds = self.drive.firmware_s + link_s + pipeline_s(stations, jobs) + weigh_s
        return AttendTime(seconds, {"submit": self.drive.firmware_s, **stations, "weigh": weigh_s, "link": link_s})

    def background_s(self, flushed: PagesTouched, erased: PagesTouched, copied: PagesTouched) -> Floats:
        """[num_dies]: how long each die is busy with these programs, erases and senses, whenever it comes to them.

        Die ``d`` of channel ``c`` has number ``c * dies_per_channel + d``. That programs share channels is left out:
        their transfers are a hundredth of them.
        """
        busy_s = np.zeros(self.drive.num_dies)
        times = self._times.before + self._times.transfer + self._times.after
        for channel, die, kinds in (*self._background(flushed, erased), self._senses(copied)):
            np.add.at(busy_s, channel * self.drive.dies_per_channel + die, times[kinds])
        return busy_s

    def _flash_s(
        self, phases: Sequence[Phase], jobs: int, background: list[_Asked], busy_s: Floats | None = None
    ) -> float:
        senses = [self._senses(phase.pages) for phase in phases]
        if jobs > 1 or len(senses) < 2:
            return self._together_s([*background, *senses], busy_s)
        first, *later = senses
        seconds = self._together_s([*background, first], busy_s)
        for part in later:
            seconds += self._together_s([part], None if busy_s is None else busy_s - seconds)
        return seconds

    def _background(self, flushed: PagesTouched, erased: PagesTouched | None) -> list[_Asked]:
        programs = self._programs(flushed)
        return [programs] if erased is None else [programs, self._erases(erased)]

    def _together_s(self, parts: Sequence[_Asked], busy_s: Floats | None = None) -> float:
        if not parts:
            return 0.0
        channel, die, kinds = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return self._run_s(channel, die, kinds, busy_s)

    def _run_s(self, channel: Places, die: Places, kinds: NDArray[np.uint8], busy_s: Floats | None = None) -> float:
        times = self._times
        if busy_s is not None and (busy_s > 0).any():
            times, wait_kinds = with_waits(times, busy_s)
            waiting = np.unique(channel * self.drive.dies_per_channel + die)
            waiting = waiting[busy_s[waiting] > 0]
            channels, dies = np.divmod(waiting, self.drive.dies_per_channel)
            channel, die = np.concatenate([channels, channel]), np.concatenate([dies, die])
            kinds = np.concatenate([wait_kinds[waiting], kinds])
        return self._makespan(queues_of(self.drive, channel, die, kinds), times)

    def _senses(self, pages: PagesTouched) -> _Asked:
        channel, die = np.asarray(pages.channel, np.int64), np.asarray(pages.die, np.int64)
        if pages.row is None or self.drive.pages_per_sense == 1:
            return channel, die, np.zeros(channel.shape, np.uint8)
        number = channel * self.drive.dies_per_channel + die
        order = np.argsort(number, kind="stable")
        starts = _starts(self.drive.pages_per_sense, number[order], np.asarray(pages.row, np.int64)[order])
        first = order[starts]
        return channel[first], die[first], read_kinds(np.diff(starts, append=len(order)))

    def _programs(self, pages: PagesTouched) -> _Asked:
        """A die's pages in their order, ``pages_per_program`` at a time; the last program may be of fewer."""
        channel, die = np.asarray(pages.channel, np.int64), np.asarray(pages.die, np.int64)
        number = channel * self.drive.dies_per_channel + die
        order = np.argsort(number, kind="stable")
        starts = _starts(self.drive.pages_per_program, number[order])
        first = order[starts]
        return channel[first], die[first], program_kinds(self.drive, np.diff(starts, append=len(order)))

    def _erases(self, blocks: PagesTouched) -> _Asked:
        channel, die = np.asarray(blocks.channel, np.int64), np.asarray(blocks.die, np.int64)
        return channel, die, np.full(channel.shape, erase_kind(self.drive), np.uint8)


def _starts(most: int, *coordinates: Places) -> Places:
    """Where runs of equal coordinates start, runs longer than ``most`` being cut."""
    length = len(coordinates[0])
    is_new = np.zeros(length, bool)
    is_new[:1] = True
    for values in coordinates:
        is_new[1:] |= values[1:] != values[:-1]
    runs = np.flatnonzero(is_new)
    within = np.arange(length) - np.repeat(runs, np.diff(runs, append=length))
    return np.flatnonzero(within % most == 0)
