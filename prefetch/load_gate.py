"""Load, compute again, or some of both: whichever is sooner (Cake, arXiv 2410.03065, decided before it starts)."""

from collections.abc import Callable
from enum import Enum


class Gate(Enum):
    """What becomes of blocks that only a level below holds."""

    LOAD = "load"
    """They are loaded, however long that takes: what most servers do."""
    RECOMPUTE = "recompute"
    """They are computed as if nobody held them."""
    SOONER = "sooner"
    """See ``blocks_to_recompute``."""


def blocks_to_recompute(num_blocks: int, compute_s: Callable[[int], float], load_s: Callable[[int], float]) -> int:
    """Of consecutive blocks of a prefix, how many of the first ones to compute while the others are loaded.

    ``compute_s(n)`` is how long the first n take to compute, ``load_s(n)`` how long all but the first n take to load;
    the former does not fall with n, the latter does not rise. The first ones, since what is computed has to know all
    that comes before it. The answer makes the longer of both the shortest; the fewest blocks where that is a tie.
    """
    low, high = 0, num_blocks
    while low < high:  # the first n whose computing takes at least as long as the loading of the rest
        middle = (low + high) // 2
        if compute_s(middle) >= load_s(middle):
            high = middle
        else:
            low = middle + 1
    if low and load_s(low - 1) <= max(compute_s(low), load_s(low)):
        return low - 1
    return low
