"""What happened when: spans that a run collects for its trace. Rows are links and compute stages."""

import time
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Span:
    """One bar of the timeline; times are seconds of ``time.perf_counter``."""

    row: str
    name: str
    start_s: float
    end_s: float
    nbytes: int = 0


@dataclass(slots=True)
class Timeline:
    """Spans in the order in which they ended. ``list.append`` is atomic, so links record from their own threads."""

    spans: list[Span] = field(default_factory=list)

    def record(self, row: str, name: str, start_s: float, nbytes: int = 0) -> None:
        """A span that began at ``start_s`` and ends now."""
        self.spans.append(Span(row, name, start_s, time.perf_counter(), nbytes))
