"""The pages that an engine touched, in the order in which it could ask for them."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Pages = NDArray[np.int64]
"""[n, 3]: kind (``PageKind``), KV head, page index."""

_NONE = np.empty((0, 3), np.int64)


@dataclass(slots=True)
class PageLog:
    """Phases in order of their first page: the pages of one phase depend on what was read in the phases before it.

    Within a phase all reads can be under way at once. A page that was asked for twice in a phase counts twice.
    """

    _phases: dict[str, list[Pages]] = field(default_factory=dict)
    _phase: str = "attend"

    def enter(self, phase: str) -> None:
        """Reads from now on belong to ``phase``; entering one again adds to it."""
        self._phase = phase

    def add(self, kind: int, kv_head: int, pages: NDArray[np.intp]) -> None:
        """Pages of one kind and head, in the order of their reads."""
        if pages.size:
            rows = np.empty((pages.size, 3), np.int64)
            rows[:, 0], rows[:, 1], rows[:, 2] = kind, kv_head, pages
            self._phases.setdefault(self._phase, []).append(rows)

    def __iter__(self) -> Iterator[tuple[str, Pages]]:
        """Name and pages of each phase."""
        for name, parts in self._phases.items():
            yield name, np.concatenate(parts)

    def pages(self, phase: str) -> Pages:
        """Of one phase; none where it read nothing."""
        parts = self._phases.get(phase)
        return np.concatenate(parts) if parts else _NONE

    @property
    def num_pages(self) -> int:
        """Over all phases."""
        return sum(len(part) for parts in self._phases.values() for part in parts)

    def clear(self) -> None:
        """As new: for the next command."""
        self._phases.clear()
        self._phase = "attend"
