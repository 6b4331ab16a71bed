"""What records the kernels of a step and plays them again."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

SET_ASIDE_NBYTES = 128 * 2**20
"""Device memory that a plan sets aside for all graphs: their activations, which no others may use, and what libraries
keep for them, as 32 MiB for the matrix products of an H100."""


class Graph(Protocol):
    """Kernels of a step, with the addresses of all that they read and write."""

    @property
    def output(self) -> Tensor:
        """What the step returned; every replay writes there again."""
        ...

    def replay(self) -> None:
        """Do it once more, with what is now at those addresses. No Python runs."""
        ...


class GraphBackend(Protocol):
    """Makes graphs; they may share memory, so the output of one lasts until another is replayed."""

    @property
    def nbytes(self) -> int:
        """Device memory that all graphs together keep, as long as they live.

        An estimate, by what torch reserves: in whole segments, of which a graph may reuse what others have reserved.
        """
        ...

    def capture(self, step: Callable[[], Tensor]) -> Graph:
        """Call ``step``, once for what libraries do at first and once to record it.

        Raises what ``step`` raises, and RuntimeError where it waits for the device or asks it for a number.
        """
        ...
