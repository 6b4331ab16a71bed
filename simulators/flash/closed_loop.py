"""Reads with a bounded number under way: what a host sees of a drive by the depth of its queue."""

import heapq
from collections import deque

from simulators.flash.drive import DriveParameters


def closed_loop_s(drive: DriveParameters, dies: list[tuple[int, int]], depth: int) -> float:
    """Seconds for single-page reads of ``dies`` (channel, die), ``depth`` at a time, each with the firmware's share.

    A read ends when its page has crossed the external link; then the next one starts, in the order given.
    """
    assert depth > 0, "reads are under way"
    waiting: dict[tuple[int, int], deque[int]] = {}
    link_page_s = drive.page_nbytes / drive.link_bytes_per_s
    channel_free = [0.0] * drive.channels
    link_free = now = 0.0
    started = min(depth, len(dies))
    # Firmware works on many commands at once: a latency. Events: (time, order, stage, die).
    events = [(drive.firmware_s, order, "arrive", die) for order, die in enumerate(dies[:started])]
    heapq.heapify(events)
    while events:
        now, order, stage, die = heapq.heappop(events)
        if stage == "arrive":
            queue = waiting.setdefault(die, deque())
            queue.append(order)
            if len(queue) == 1:
                heapq.heappush(events, (now + drive.sense_s, order, "sensed", die))
        elif stage == "sensed":
            end = channel_free[die[0]] = max(now, channel_free[die[0]]) + drive.page_transfer_s
            heapq.heappush(events, (end, order, "read", die))
        elif stage == "read":
            queue = waiting[die]
            queue.popleft()
            if queue:
                heapq.heappush(events, (now + drive.sense_s, queue[0], "sensed", die))
            link_free = max(now, link_free) + link_page_s
            heapq.heappush(events, (link_free, order, "done", die))
        elif started < len(dies):
            heapq.heappush(events, (now + drive.firmware_s, started, "arrive", dies[started]))
            started += 1
    return now
