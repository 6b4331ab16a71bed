"""What happened when, in a bounded number of equal stretches of time: for plots over hours of virtual time."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FIRST_BIN_S = 2.0**-20
"""A microsecond; powers of two stay exact however often they are doubled."""

Bins = NDArray[np.float64]


class Activity:
    """Collects over bins of one width. When time outgrows them, neighbours are joined and bins are twice as wide.

    So a replay of any length takes the same memory, and the last half of the bins at least is used.
    """

    def __init__(self, num_bins: int = 256) -> None:
        assert num_bins >= 2
        assert num_bins % 2 == 0, "bins are joined in pairs"
        self.bin_s = _FIRST_BIN_S
        self._num_bins = num_bins
        self._busy: dict[str, Bins] = {}
        self._counts: dict[str, Bins] = {}
        self._levels: dict[str, Bins] = {}

    def add(self, lane: str, start_s: float, end_s: float) -> None:
        """A lane was busy; stretches of one lane do not overlap."""
        if end_s <= start_s:
            return
        last = self._bin_until(end_s)  # before the other: bins may be joined
        first = int(start_s / self.bin_s)
        busy = self._row(self._busy, lane, 0.0)
        if first == last:
            busy[first] += end_s - start_s
            return
        busy[first] += (first + 1) * self.bin_s - start_s
        busy[first + 1 : last] += self.bin_s
        busy[last] += end_s - last * self.bin_s

    def count(self, lane: str, at_s: float, amount: float) -> None:
        """So many more of something by then."""
        self._row(self._counts, lane, 0.0)[self._bin_until(at_s)] += amount

    def level(self, lane: str, at_s: float, value: float) -> None:
        """What something stands at from then on; of each bin the last value is kept."""
        self._row(self._levels, lane, np.nan)[self._bin_until(at_s)] = value

    def as_json(self, end_s: float) -> dict[str, Any]:
        """Keys ``bin_s``; ``busy`` (share of each bin), ``levels`` and ``counts``, which map lanes to a value a bin.

        A level that nobody has told yet is 0. Nothing of what came after ``end_s`` is in it.
        """
        num = self._bin_until(end_s) + 1
        lengths = np.full(num, self.bin_s)
        lengths[-1] = max(end_s - (num - 1) * self.bin_s, _FIRST_BIN_S)
        return {
            "bin_s": self.bin_s,
            "busy": {lane: _rounded(np.minimum(1.0, row[:num] / lengths)) for lane, row in self._busy.items()},
            "levels": {lane: _rounded(_held(row[:num])) for lane, row in self._levels.items()},
            "counts": {lane: _rounded(row[:num]) for lane, row in self._counts.items()},
        }

    def _bin_until(self, end_s: float) -> int:
        """The one that ends there or later; a moment at the border of two belongs to the earlier one."""
        assert end_s >= 0.0, "time begins at 0"
        while end_s > self._num_bins * self.bin_s:
            self._join()
        return max(0, math.ceil(end_s / self.bin_s) - 1)

    def _row(self, rows: dict[str, Bins], lane: str, nothing: float) -> Bins:
        row = rows.get(lane)
        if row is None:
            row = rows[lane] = np.full(self._num_bins, nothing)
        return row

    def _join(self) -> None:
        self.bin_s *= 2
        for rows in (self._busy, self._counts):
            for row in rows.values():
                _join_pairs(row, row[0::2] + row[1::2], 0.0)
        for row in self._levels.values():
            _join_pairs(row, np.where(np.isnan(row[1::2]), row[0::2], row[1::2]), np.nan)


def timeline_of_spans(spans: Mapping[str, list[tuple[float, float]]], num_bins: int = 256) -> dict[str, Any]:
    """The same of what was recorded: stretches (start, end) of each lane in seconds; here they may overlap."""
    origin = min((start for row in spans.values() for start, _ in row), default=0.0)
    end = max((end for row in spans.values() for _, end in row), default=origin)
    activity = Activity(num_bins)
    for lane, row in spans.items():
        until = origin
        for start, stop in sorted(row):
            activity.add(lane, max(start, until) - origin, stop - origin)
            until = max(until, stop)
    return activity.as_json(end - origin)


def _join_pairs(row: Bins, joined: Bins, nothing: float) -> None:
    row[: len(joined)] = joined
    row[len(joined) :] = nothing


def _held(row: Bins) -> Bins:
    """Each bin that was told nothing stands where the last one stood that was."""
    told = np.where(np.isnan(row), 0, np.arange(len(row)))
    return np.nan_to_num(row[np.maximum.accumulate(told)])


def _rounded(row: Bins) -> list[float | int]:
    """Three digits that count are more than a screen shows, and short as text."""
    return [int(value) if value == int(value) else float(f"{value:.3g}") for value in row.tolist()]
