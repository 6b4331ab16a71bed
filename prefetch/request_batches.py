"""Which requests should run side by side: those that need the same experts."""

import numpy as np
from numpy.typing import NDArray

from prefetch.expert_queues import GatedRequest, expert_batches
from prefetch.token_scheduler import Paths, active_experts, split_tokens

Batches = list[list[int]]
"""Indices of requests; each is in one batch."""
Shares = NDArray[np.floating]
"""[requests, layers x experts] how likely each request is to visit each expert, or how often it does."""

_SWEEPS = 4


def arrival_batches(count: int, batch: int) -> Batches:
    """``count`` requests as they came, ``batch`` at a time."""
    return [list(range(start, min(start + batch, count))) for start in range(0, count, batch)]


def path_batches(paths: Paths, batch: int) -> Batches:
    """Batches of at most ``batch`` requests that need few experts; ``paths`` [requests, layers x experts].

    ExpertFlow's scheduler (arXiv 2410.17954) regroups two adjacent batches; here it goes over all neighbours until
    nothing changes, so that a request can wander farther. In all, the batches never need more experts than in the order
    of arrival. Those of a batch are in that order.
    """
    batches = arrival_batches(len(paths), batch)
    for _ in range(_SWEEPS):
        # First the even neighbours, then the odd ones.
        pairs = [*range(0, len(batches) - 1, 2), *range(1, len(batches) - 1, 2)]
        if sum(_regroup(paths, batches, first) for first in pairs) == 0:
            break
    return batches


def queue_batches(shares: Shares, batch: int) -> Batches:
    """Read-ME's batches (arXiv 2410.19123, algorithm 1): requests queue by expert, the longest queue goes first.

    There a router for all layers names the one expert of a request. Where every layer has its own, a request queues for
    the expert that sets it apart: the one that it visits more than the others do, by the largest difference.
    """
    apart = (shares - shares.mean(axis=0, keepdims=True)).argmax(axis=1)
    requests = [GatedRequest(i, int(expert)) for i, expert in enumerate(apart)]
    return [[one.request for one in members] for members in expert_batches(requests, batch)]


def likely_paths(shares: NDArray[np.floating], top_k: int) -> Paths:
    """The ``top_k`` experts of each layer that each request visits most: [requests, layers, experts] as ``Paths``."""
    best = np.argsort(-shares, axis=-1, kind="stable")[..., :top_k]
    paths = np.zeros(shares.shape, np.bool_)
    np.put_along_axis(paths, best, True, axis=-1)
    return paths.reshape(len(shares), -1)


def _regroup(paths: Paths, batches: Batches, first: int) -> bool:
    """Regroup a batch and the next one, if that helps."""
    pair = sorted(batches[first] + batches[first + 1])
    halves = [[pair[i] for i in half] for half in split_tokens(paths[pair])]
    is_better = _cost(paths, halves) < _cost(paths, batches[first : first + 2])
    if is_better:
        batches[first : first + 2] = halves
    return is_better


def _cost(paths: Paths, batches: Batches) -> int:
    return sum(active_experts(paths[members]) for members in batches)
