"""One geometry for the three rates that InstAttention measured on its drive (Table III)."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from simulators.flash.drive import DriveParameters
from simulators.flash.timing import FlashTiming, PagesTouched
from simulators.serving.base import Workload
from simulators.serving.kv_pages import flushed_per_step, pages_of
from simulators.serving.selection import Selection

_BULK_BATCH = 4
"""Enough for prefill to keep all dies busy; the rate of a larger one is the same."""
_GOOD = math.log(1.1)


@dataclass(frozen=True, slots=True)
class FlashRates:
    """Bytes per second of one drive, reads being those of sparse attention."""

    decode_read: float
    prefill_write: float
    """Of what crosses the link; with the keys' second copy the dies take half as much again."""
    decode_write: float

    def distance(self, other: "FlashRates") -> float:
        """The largest of the three relative differences, as a logarithm."""
        return max(
            abs(math.log(self.decode_read / other.decode_read)),
            abs(math.log(self.prefill_write / other.prefill_write)),
            abs(math.log(self.decode_write / other.decode_write)),
        )


TABLE_3 = FlashRates(decode_read=7.66e9, prefill_write=3.78e9, decode_write=2.15e9)
"""As published, of OPT-13B at batch 64."""


def rates_of(drive: DriveParameters, workload: Workload, selection: Selection) -> FlashRates:
    """What the flash of ``drive`` reaches with the pages of a layer of ``workload`` in the middle of decoding."""
    bulk, flush = _write_rates(drive, workload)
    return FlashRates(_read_rate(drive, workload, selection), bulk, flush)


def fit_geometry(
    wanted: FlashRates, start: DriveParameters, workload: Workload, selection: Selection
) -> DriveParameters:
    """The drive nearest to ``start`` among those within 10 % of all rates, or the closest to them where none is.

    Searched: 4 to 32 dies a channel, 1 to 16 pages a program, tR from 20 to 90 us, tPROG from 200 to 1000 us. Near is
    the sum of the factors by which the four differ from ``start``, as logarithms.
    """
    tried = [
        (max(0.0, rates.distance(wanted) - _GOOD), _changes(drive, start), index, drive)
        for index, (drive, rates) in enumerate(_candidates(start, workload, selection))
    ]
    return min(tried)[-1]


def _candidates(
    start: DriveParameters, workload: Workload, selection: Selection
) -> Iterator[tuple[DriveParameters, FlashRates]]:
    for dies in (4, 8, 16, 32):
        # Reads depend on dies and tR alone, writes on the others: each is computed once.
        reading = [replace(start, dies_per_channel=dies, read_s=us * 1e-6) for us in range(20, 95, 5)]
        read_rates = [_read_rate(drive, workload, selection) for drive in reading]
        for pages, us in itertools.product((1, 2, 4, 8, 16), range(200, 1050, 50)):
            writing = replace(start, dies_per_channel=dies, pages_per_program=pages, program_s=us * 1e-6)
            bulk, flush = _write_rates(writing, workload)
            for drive, read in zip(reading, read_rates, strict=True):
                yield replace(writing, read_s=drive.read_s), FlashRates(read, bulk, flush)


def _read_rate(drive: DriveParameters, workload: Workload, selection: Selection) -> float:
    pages = pages_of(drive, workload.shape, workload.batch, 1, workload.tokens)
    phases = pages.sparse(workload.contexts(1)[0], selection)
    touched = PagesTouched.joined([phase.pages for phase in phases])
    return touched.num_pages * drive.page_nbytes / FlashTiming(drive).read_s(touched)


def _write_rates(drive: DriveParameters, workload: Workload) -> tuple[float, float]:
    """Of the prompt in bulk, and of the pages that fill up in one step."""
    timing, small = FlashTiming(drive), min(workload.batch, _BULK_BATCH)
    pages = pages_of(drive, workload.shape, small, 1, workload.tokens)
    bulk_s = timing.write_s(pages.written(pages.num_pages(workload.prompt_tokens)))
    prompt_nbytes = small * workload.prompt_tokens * workload.shape.kv_nbytes_per_token / workload.shape.layers
    pages = pages_of(drive, workload.shape, workload.batch, 1, workload.tokens)
    flushed = pages.written(flushed_per_step(pages, is_twice=True))
    return prompt_nbytes / bulk_s, flushed.num_pages * drive.page_nbytes / timing.write_s(flushed)


def _changes(drive: DriveParameters, start: DriveParameters) -> float:
    factors = (
        drive.dies_per_channel / start.dies_per_channel,
        drive.pages_per_program / start.pages_per_program,
        drive.read_s / start.read_s,
        drive.program_s / start.program_s,
    )
    return sum(abs(math.log(factor)) for factor in factors)
