"""The exact merge of the dies of a channel in plain Python: for machines without numba, and to read."""

import heapq

import numpy as np

from simulators.flash.operations import Floats, OperationTimes, Queues


def channel_ends_by_heap(queues: Queues, times: OperationTimes) -> Floats:
    """Seconds at which each channel and its dies have finished, [channels], all operations being known at 0.

    A channel serves its dies in the order in which their senses end, the lower number first where two end together. A
    die starts its next operation when its last has left it.
    """
    ends = np.zeros(queues.channels)
    before, transfer, after, filtered = (
        stage.tolist() for stage in (times.before, times.transfer, times.after, times.filtered)
    )
    offsets, kinds = queues.offsets.tolist(), queues.kinds.tolist()
    for channel in range(queues.channels):
        first = channel * queues.dies_per_channel
        dies = range(first, first + queues.dies_per_channel)
        ready = [(before[kinds[offsets[die]]], die) for die in dies if offsets[die] < offsets[die + 1]]
        heapq.heapify(ready)
        position = {die: offsets[die] for die in dies}
        channel_free = filter_free = end = 0.0
        while ready:
            ready_s, die = ready[0]
            kind = kinds[position[die]]
            channel_free = max(ready_s, channel_free) + transfer[kind]
            filter_free = max(filter_free, channel_free) + filtered[kind]
            die_free = channel_free + after[kind]
            end = max(end, die_free, filter_free)
            position[die] += 1
            if position[die] < offsets[die + 1]:
                heapq.heapreplace(ready, (die_free + before[kinds[position[die]]], die))
            else:
                heapq.heappop(ready)
        ends[channel] = end
    return ends
