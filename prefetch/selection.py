"""The seam of KV selection: which blocks of a sequence a query has to see."""

from abc import ABC, abstractmethod
from collections.abc import Sequence


class KVSelector(ABC):
    """Chooses blocks by index. What is not chosen is neither fetched nor attended to.

    A selector that leaves blocks out makes attention approximate and may change tokens. So it is used only where the
    caller asked for it by name; without that it is ``AllBlocks``.
    """

    @abstractmethod
    def select(self, layer: int, num_blocks: int, query_summary: object | None) -> Sequence[int]:
        """Distinct indices in ``range(num_blocks)``, ascending, of the blocks that ``layer`` needs for this query.

        ``query_summary`` is whatever the selector was built to judge by; None where the query is not known yet.
        """


class AllBlocks(KVSelector):
    """Exact attention: every block, whatever the query."""

    def select(self, layer: int, num_blocks: int, query_summary: object | None) -> Sequence[int]:
        return range(num_blocks)
