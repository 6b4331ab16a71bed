"""Replays requests at the times at which they came: they wait for the device, which serves several at a time.

First come, first served. One prompt at a time is loaded and computed, before any further token of the answers under
way, as servers do that care for the first token; up to ``batch`` answers are then generated side by side, token by
token, and their blocks stay on the device meanwhile. A request begins when it is the first of those that wait, fewer
than ``batch`` are under way, and the device has room for its blocks. What of these lies below is brought while it waits
and others compute (CachedAttention, arXiv 2403.19708, section 3.2).

The bound of a scenario (``belady``) may hit about 1 % less here than an online policy: it knows the order in which
blocks are used, but what running answers use is pinned, so that it cannot evict what it would. It is the best for
requests one after the other, and only near to that for requests side by side.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from prefetch.load_gate import Gate
from simulators.kv_replay import (
    FreeOfCost,
    KVReplayResult,
    PromptReplay,
    ReplayObserver,
    ServingCosts,
    tokens_to_decode,
)
from simulators.kv_trace.base import KeyTable, KVTrace, Request
from simulators.modelled_mover import ModelledMover
from tiers.block import BlockKey
from tiers.manager import TieredMemoryManager


class Arrivals(Enum):
    """When requests come."""

    CLOSED = "closed"
    """Each when the one before is done: see ``kv_replay``."""
    TRACE = "trace"
    """When the trace says."""


@dataclass(slots=True)
class _Answer:
    """One that is being generated."""

    keys: list[BlockKey]
    context: int
    left: int
    """Tokens to come."""


def serve_requests(
    trace: KVTrace,
    manager: TieredMemoryManager,
    mover: ModelledMover,
    costs: ServingCosts | None = None,
    *,
    batch: int = 1,
    speed: float = 1.0,
    gate: Gate = Gate.LOAD,
    table: KeyTable | None = None,
    observer: ReplayObserver | None = None,
) -> KVReplayResult:
    """Replay a whole trace whose requests come ``speed`` times as fast as recorded; else as ``replay_requests``."""
    costs = costs or FreeOfCost()
    prompts = PromptReplay(manager, mover, costs, trace.block_tokens, gate, table, observer)
    return _Server(manager, mover, costs, prompts, batch, gate).serve(_hurried(trace, speed))


def _hurried(trace: KVTrace, speed: float) -> Iterator[Request]:
    return (request._replace(arrival_s=request.arrival_s / speed) for request in trace.requests)


class _Server:
    def __init__(
        self,
        manager: TieredMemoryManager,
        mover: ModelledMover,
        costs: ServingCosts,
        prompts: PromptReplay,
        batch: int,
        gate: Gate,
    ) -> None:
        self._manager = manager
        self._mover = mover
        self._clock = mover.clock
        self._start_s = mover.clock.now_s
        self._costs = costs
        self._prompts = prompts
        self._batch = batch
        self._is_loading = gate is not Gate.RECOMPUTE
        self._waiting: deque[Request] = deque()
        self._answers: list[_Answer] = []

    def serve(self, requests: Iterator[Request]) -> KVReplayResult:
        coming = next(requests, None)
        while coming is not None or self._waiting or self._answers:
            while coming is not None and self._came_s(coming) <= self._clock.now_s:
                self._waiting.append(coming)
                coming = next(requests, None)
            if self._can_begin():
                self._begin(self._waiting.popleft())
            elif self._answers:
                self._look_ahead()
                # Whoever comes first finds the device, or at least has its blocks brought.
                self._generate(None if self._waiting or coming is None else self._came_s(coming))
            elif coming is not None:
                self._clock.advance_to(self._came_s(coming))
        return self._prompts.finish()

    def _came_s(self, request: Request) -> float:
        return self._start_s + request.arrival_s

    def _can_begin(self) -> bool:
        if not self._answers:
            return bool(self._waiting)
        if not self._waiting or len(self._answers) >= self._batch:
            return False
        keys = self._prompts.keys(self._waiting[0])
        here = self._manager.levels[0].slots
        return sum(key not in here for key in keys) <= self._manager.room_besides(keys)

    def _begin(self, request: Request) -> None:
        keys = self._prompts.prefill(request, self._came_s(request), self._look_ahead)
        self._manager.hold(keys)
        self._answers.append(_Answer(keys, request.input_tokens, tokens_to_decode(request)))
        self._end_answers()

    def _look_ahead(self) -> None:
        """Bring what the next one will need, as far as there is room besides what is in use."""
        if self._waiting and self._is_loading:
            self._manager.prefetch(self._manager.missing(self._prompts.keys(self._waiting[0])))

    def _generate(self, until_s: float | None) -> None:
        """Tokens for all answers under way: until one of them ends, or the first token after a time."""
        answers = self._answers
        context = sum(answer.context for answer in answers) / len(answers)
        steps = min(answer.left for answer in answers)
        step_s = self._costs.step_s(len(answers), context)
        if until_s is not None and step_s > 0:
            steps = min(steps, max(1, math.ceil((until_s - self._clock.now_s) / step_s)))
        seconds = steps * self._costs.step_s(len(answers), context + steps / 2)
        self._prompts.result.compute_s += self._mover.decode(seconds)
        for answer in answers:
            answer.context += steps
            answer.left -= steps
        self._end_answers()

    def _end_answers(self) -> None:
        for answer in self._answers:
            if not answer.left:
                self._manager.release(answer.keys)
        self._answers = [answer for answer in self._answers if answer.left]
