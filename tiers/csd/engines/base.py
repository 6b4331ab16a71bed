"""What an attention engine is, and what it gives back."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from tiers.csd.pages import Floats, Halves, SequencePages


@dataclass(frozen=True, slots=True)
class AttentionResult:
    """``output`` [heads, head_dim] and ``logsumexp`` [heads] of the scores, both float32.

    ``logsumexp`` is the weight of the part when it is merged with others: the logarithm of the sum of exp(score) over
    *all* tokens that the part stands for. An engine that reads only some of them estimates the rest.
    """

    output: Floats
    logsumexp: Floats


class GroupSummary(Protocol):
    """What the drive keeps in its memory of every full group, for an engine that selects by it."""

    @property
    def vectors(self) -> int:
        """Vectors of [head_dim] per group; 0 for an engine that needs none."""
        ...

    def __call__(self, keys: Halves, values: Halves) -> Halves:
        """Keys and values [groups, tokens_per_group, head_dim] of full groups -> [groups, vectors, head_dim]."""
        ...


class AttentionEngine(Protocol):
    """Attention of one new token over the tokens that the drive holds, of one layer of one sequence."""

    @property
    def summary(self) -> GroupSummary:
        """What the drive has to keep of each group for this engine."""
        ...

    def attend(self, query: Floats, pages: SequencePages) -> AttentionResult:
        """``query`` [heads, head_dim], as it comes out of the projection (unscaled, rotated).

        Query head ``h`` belongs to KV head ``h // heads_per_kv``. With no token the output is zero and the logsumexp
        is -inf.
        """
        ...


@runtime_checkable
class ReadsChannelPages(Protocol):
    """An engine that may read whole pages of the channel index, and so gains from channels wanted together sharing one.

    The drive then learns an order of the channels from the first queries, and fills the channel index in that order.
    """

    @property
    def whole_pages(self) -> bool:
        """Whether this one does."""
        ...


class NoSummary:
    """For engines that select by pages alone, or not at all."""

    vectors = 0

    def __call__(self, keys: Halves, values: Halves) -> Halves:
        return keys[:, :0]
