"""Which tokens of two batches should run together: ExpertFlow's token scheduler."""

import numpy as np
from numpy.typing import NDArray

Paths = NDArray[np.bool_]
Indices = NDArray[np.int64]

_ROUNDS = 10


def active_experts(paths: Paths) -> int:
    """[tokens, layers x experts] -> how many experts, counted in each layer, at least one token needs."""
    return int(paths.any(axis=0).sum())


def split_tokens(paths: Paths) -> tuple[Indices, Indices]:
    """Regroup the tokens of two adjacent batches so that each batch needs few experts.

    ``paths`` [2 T, layers x experts] says what each token needs, the first batch's tokens first. Returns the indices of
    the tokens of either new batch, T each (one more in the first of an odd number), ascending. The sum of the active
    experts of both is never larger than it was.

    The exact problem is NP-hard (arXiv 2410.17954). This is 2-means with halves of equal size, where
    likeness is 1 - Hamming distance / length: it starts from the two tokens that are least alike, gives the half of
    the tokens to each centre that lean towards it most, and moves the centres until nothing changes. It takes O(T^2)
    comparisons of paths, as one matrix product.
    """
    count = len(paths)
    half = (count + 1) // 2
    unscheduled = np.arange(half), np.arange(half, count)
    if count < 3:
        return unscheduled
    rows = paths.astype(np.float32)
    # Hamming distance of 0/1 rows: |a| + |b| - 2 a.b
    sizes = rows.sum(axis=1)
    distances = sizes[:, None] + sizes[None, :] - 2 * rows @ rows.T
    centres = rows[list(divmod(int(distances.argmax()), count))]
    best, fewest = unscheduled, _cost(paths, unscheduled)
    before: Indices | None = None
    for _ in range(_ROUNDS):
        leaning = rows @ (centres[1] - centres[0]) - (centres[1] ** 2 - centres[0] ** 2).sum() / 2
        order = np.argsort(leaning, kind="stable")
        halves = np.sort(order[:half]), np.sort(order[half:])
        if before is not None and np.array_equal(before, halves[0]):
            break
        before = halves[0]
        cost = _cost(paths, halves)
        if cost < fewest:
            best, fewest = halves, cost
        centres = np.stack([rows[part].mean(axis=0) for part in halves])
    return best


def _cost(paths: Paths, halves: tuple[Indices, Indices]) -> int:
    return sum(active_experts(paths[part]) for part in halves)
