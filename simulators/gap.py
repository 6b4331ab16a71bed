"""Where the gap to Belady comes from: which blocks a policy let go that knowing the future would have kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulators.kv_trace.base import Request
from simulators.reuse import COLD, reuse_distances, session_ages

Flags = NDArray[np.bool_]

_AGES_S = (0.0, 10.0, 60.0, 600.0, 3600.0)
"""A conversation's first request, then those of up to so many seconds after it, and later ones."""


@dataclass(frozen=True, slots=True)
class _Buckets:
    """``places`` says into which bucket each access falls; bucket i holds what is at most ``up_to[i]``."""

    places: NDArray[np.int64]
    up_to: list[float | None]


class GapFinder:
    """Knows of every access of a trace what kind of access it is, and whether Belady's cache finds it (``ideal``)."""

    def __init__(self, requests: Sequence[Request], ideal: Sequence[bool]) -> None:
        blocks = [block for request in requests for block in request.blocks]
        lengths = [len(request.blocks) for request in requests]
        distances = reuse_distances(blocks)
        depths = np.concatenate([np.arange(length) for length in lengths] or [np.zeros(0, np.int64)])
        ages = np.repeat(session_ages(requests), lengths)
        self._is_cold: Flags = distances == COLD
        self._best: Flags = np.array(ideal, bool)
        self._kinds = {
            "reuse_distance": _powers_of_two(distances),
            "prefix_depth": _powers_of_two(depths),
            "session_age_s": _Buckets(np.searchsorted(_AGES_S, ages), [*_AGES_S, None]),
        }

    def parts(self, found: Sequence[bool]) -> dict[str, Any]:
        """The accesses of a policy that found what ``found`` says, one flag an access, in numbers.

        ``cold`` are first uses, which nobody finds; ``lost`` what Belady's cache finds and the policy does not; ``won``
        what only the policy finds; ``hits - ideal_hits == won - lost``. ``by`` tells the uses that are not cold apart
        by how many other blocks were asked for since the last one, by their place in the prompt, and by the age of
        their conversation; each with a number a bucket, which holds what is at most ``up_to``.
        """
        hits = np.array(found, bool)
        assert len(hits) == len(self._best), "one flag an access"
        lost, won = self._best & ~hits, hits & ~self._best
        counted = {"asked": ~self._is_cold, "hits": hits, "ideal_hits": self._best, "lost": lost, "won": won}
        by = {name: _in_buckets(buckets, counted) for name, buckets in self._kinds.items()}
        totals = {name: int(flags.sum()) for name, flags in counted.items() if name != "asked"}
        return {"accesses": len(hits), "cold": int(self._is_cold.sum()), **totals, "by": by}


def _powers_of_two(values: NDArray[np.int64]) -> _Buckets:
    """0, 1, 2 to 3, 4 to 7, ...; of negative values none count."""
    largest = int(values.max(initial=0)).bit_length()
    limits = [2**bits - 1 for bits in range(largest + 1)]
    return _Buckets(np.searchsorted(limits, values), [float(limit) for limit in limits])


def _in_buckets(buckets: _Buckets, counted: dict[str, Flags]) -> dict[str, list[Any]]:
    num = len(buckets.up_to)
    asked = counted["asked"]
    sums = {name: np.bincount(buckets.places[flags & asked], minlength=num).tolist() for name, flags in counted.items()}
    return {"up_to": [None if limit is None else int(limit) for limit in buckets.up_to], **sums}
