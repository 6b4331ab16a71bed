"""The exact merge of the dies of a channel, compiled: the same arithmetic in the same order as ``heap_merge``."""

import numpy as np
from numba import njit

from simulators.flash.operations import Floats, OperationTimes, Queues


def channel_ends_by_numba(queues: Queues, times: OperationTimes) -> Floats:
    """See ``channel_ends_by_heap``."""
    ends = np.zeros(queues.channels)
    _merge(
        queues.offsets,
        queues.kinds,
        queues.dies_per_channel,
        times.before,
        times.transfer,
        times.after,
        times.filtered,
        ends,
    )
    return ends


@njit(cache=True, nogil=True)
def _merge(offsets, kinds, num_dies, before, transfer, after, filtered, ends):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    # Dies that wait, soonest first, in a ring. A sense that starts later nearly always ends later, so that a die finds
    # its place from the back in one step; only where reads meet programs does it walk.
    ring = np.empty(num_dies, np.int64)
    ready = np.empty(num_dies)
    position = np.empty(num_dies, np.int64)
    for channel in range(len(ends)):
        first = channel * num_dies
        head = 0
        waiting = 0
        for die in range(num_dies):
            position[die] = offsets[first + die]
            if position[die] < offsets[first + die + 1]:
                ready[die] = before[kinds[position[die]]]
                _insert(ring, ready, head, waiting, die)
                waiting += 1
        channel_free = 0.0
        filter_free = 0.0
        end = 0.0
        while waiting:
            die = ring[head]
            kind = kinds[position[die]]
            channel_free = max(ready[die], channel_free) + transfer[kind]
            filter_free = max(filter_free, channel_free) + filtered[kind]
            die_free = channel_free + after[kind]
            end = max(end, die_free, filter_free)
            position[die] += 1
            head = head + 1 if head + 1 < num_dies else 0
            waiting -= 1
            if position[die] < offsets[first + die + 1]:
                ready[die] = die_free + before[kinds[position[die]]]
                _insert(ring, ready, head, waiting, die)
                waiting += 1
        ends[channel] = end


@njit(cache=True, nogil=True, inline="always")
def _insert(ring, ready, head, waiting, die):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN202
    size = len(ring)
    place = head + waiting
    place = place - size if place >= size else place
    for _ in range(waiting):
        previous = place - 1 if place else size - 1
        other = ring[previous]
        if ready[other] < ready[die] or (ready[other] == ready[die] and other < die):
            break
        ring[place] = other
        place = previous
    ring[place] = die
