"""The oracle of flash timing: a process for every die and every channel, in a library for discrete events."""

from collections.abc import Generator
from typing import Any

import simpy
from simpy.events import EventPriority

from simulators.flash.operations import OperationTimes, Queues

_LAST = EventPriority(2)
"""Behind everything else that happens at the same time: simpy's own events have 0 and 1."""


def oracle_s(queues: Queues, times: OperationTimes) -> float:
    """A Makespan."""
    ends = [_Channel(queues, times, channel).run() for channel in range(queues.channels)]
    return max(ends, default=0.0)


class _Channel:
    def __init__(self, queues: Queues, times: OperationTimes, channel: int) -> None:
        self.env = simpy.Environment()
        self.times = times
        self.waiting: list[tuple[float, int, simpy.Event, int]] = []
        self.arrived = self.env.event()
        self.filter_free = 0.0
        self.end = 0.0
        first = channel * queues.dies_per_channel
        for die in range(first, first + queues.dies_per_channel):
            kinds = queues.kinds[queues.offsets[die] : queues.offsets[die + 1]].tolist()
            self.env.process(self._die(die, kinds))
        self.env.process(self._serve())

    def run(self) -> float:
        self.env.run()
        return self.end

    def _die(self, number: int, kinds: list[int]) -> Generator[simpy.Event, Any, None]:
        for kind in kinds:
            yield self.env.timeout(float(self.times.before[kind]))
            served = self.env.event()
            self.waiting.append((self.env.now, number, served, kind))
            if not self.arrived.triggered:
                self.arrived.succeed()
            yield served
            yield self.env.timeout(float(self.times.after[kind]))
            self.end = max(self.end, self.env.now)

    def _serve(self) -> Generator[simpy.Event, Any, None]:
        while True:
            if not self.waiting:
                self.arrived = self.env.event()
                yield self.arrived
            # Dies whose senses end at this very moment are all in line before one of them is chosen.
            yield self._at_the_end_of_now()
            turn = min(self.waiting, key=lambda one: one[:2])
            self.waiting.remove(turn)
            _, _, served, kind = turn
            yield self.env.timeout(float(self.times.transfer[kind]))
            self.filter_free = max(self.filter_free, self.env.now) + float(self.times.filtered[kind])
            self.end = max(self.end, self.filter_free)
            served.succeed()

    def _at_the_end_of_now(self) -> simpy.Event:
        event = simpy.Event(self.env)
        event._ok, event._value = True, None
        self.env.schedule(event, priority=_LAST)
        return event
