"""Requests that come when the trace says: who waits for whom, and for how long."""

import random
from collections.abc import Sequence

import pytest

from prefetch.load_gate import Gate
from simulators.kv_replay import KVReplayResult, replay_requests
from simulators.kv_serving import serve_requests
from simulators.kv_trace.base import KVTrace, Request
from tests.simulators.test_kv_replay import OneSecondAToken, make, requests_of, sample
from tiers.errors import BudgetError
from tiers.manager import TieredMemoryManager


def coming(*requests: tuple[float, int, list[int]]) -> KVTrace:
    """Seconds, tokens of the answer, blocks of one token of the prompt."""
    return KVTrace("test", 1, iter([Request(at, len(blocks), tokens, blocks) for at, tokens, blocks in requests]))


def serve(
    requests: Sequence[tuple[float, int, list[int]]],
    slots: Sequence[int] = (100,),
    *,
    batch: int = 1,
    speed: float = 1.0,
    gate: Gate = Gate.LOAD,
) -> tuple[KVReplayResult, TieredMemoryManager]:
    manager, mover = make("lru", *slots)
    result = serve_requests(coming(*requests), manager, mover, OneSecondAToken(), batch=batch, speed=speed, gate=gate)
    manager.check()
    assert not manager._placement.pinned, "everything was let go of"
    return result, manager


def test_who_comes_while_the_device_is_busy_waits() -> None:
    """A prompt of two tokens gives the first of four. The second request comes after one second, the third later."""
    result, _ = serve([(0.0, 4, [1, 2]), (1.0, 4, [3]), (30.0, 1, [4])])
    assert result.queue_s == [0.0, 4.0, 0.0]
    assert result.ttft_s == [2.0, 5.0, 1.0]
    assert (result.elapsed_s, result.compute_s) == (31.0, 10.0)


def test_answers_are_generated_side_by_side() -> None:
    """The second prompt is computed as soon as a token is done; then each step of a second is a token for both."""
    result, _ = serve([(0.0, 4, [1, 2]), (2.5, 4, [3])], batch=2)
    assert result.queue_s == [0.0, 0.5]
    assert result.ttft_s == [2.0, 1.5]
    # Prompts until 2 s and from 3 to 4 s; answers until 6 s and, a token behind, 7 s.
    assert (result.elapsed_s, result.output_tokens) == (7.0, 8)


def test_no_more_than_a_batch_at_a_time() -> None:
    result, _ = serve([(0.0, 3, [1]), (0.0, 3, [2]), (0.0, 3, [3])], batch=2)
    assert result.queue_s == [0.0, 1.0, 4.0]


def test_a_request_for_which_the_device_has_no_room_waits() -> None:
    """Blocks of answers under way stay."""
    result, _ = serve([(0.0, 3, [1, 2]), (0.0, 3, [3, 4]), (0.0, 3, [1, 2])], (3, 8), batch=3)
    assert result.queue_s == [0.0, 4.0, 8.0]
    assert result.hits == 2
    with pytest.raises(BudgetError, match="request 2 has 4 blocks"):
        serve([(0.0, 3, [1, 2]), (0.0, 3, [3, 4, 5, 6])], (3, 8))


def test_requests_may_come_faster() -> None:
    slow, _ = serve([(0.0, 4, [1, 2]), (6.0, 4, [3])])
    fast, _ = serve([(0.0, 4, [1, 2]), (6.0, 4, [3])], speed=2.0)
    assert (slow.queue_s, fast.queue_s) == ([0.0, 0.0], [0.0, 2.0])


@pytest.mark.parametrize("gate", [Gate.LOAD, Gate.RECOMPUTE])
def test_what_a_waiting_request_needs_is_brought_while_others_compute(gate: Gate) -> None:
    """Blocks 1 and 2 take two seconds from the host; the answer before takes nine."""
    requests = [(0.0, 1, [1, 2]), (20.0, 1, [3, 4, 5, 6]), (40.0, 10, [7]), (41.0, 1, [1, 2])]
    result, _ = serve(requests, (4, 100), gate=gate)
    assert result.stall_s == 0
    assert result.queue_s[-1] == 9.0
    assert result.ttft_s[-1] == 9.0 + (1.0 if gate is Gate.LOAD else 2.0)
    assert result.device_hits == (2 if gate is Gate.LOAD else 0)


def test_requests_far_apart_fare_as_in_a_closed_loop() -> None:
    """Nobody waits for the device, and the same blocks are found."""
    prompts = [list(request.blocks) for request in sample(100).requests]
    manager, mover = make("lru", 300, 400, 500)
    closed = replay_requests(requests_of(*prompts), manager, mover, OneSecondAToken())
    apart, _ = serve([(1e5 * i, 10, blocks) for i, blocks in enumerate(prompts)], (300, 400, 500))
    assert set(apart.queue_s) == {0.0}
    assert apart.accesses == closed.accesses
    assert apart.hits == pytest.approx(closed.hits, rel=0.02)


@pytest.mark.parametrize("gate", Gate)
@pytest.mark.parametrize("policy", ["lru", "arc", "batch_plan"])
def test_whatever_comes_is_served_in_its_order(policy: str, gate: Gate) -> None:
    order = random.Random(5)
    prompts = [[10 * start + i for i in range(order.randint(1, 6))] for start in order.choices(range(5), k=200)]
    requests = [(2.0 * i, order.randint(0, 9), blocks) for i, blocks in enumerate(prompts)]

    def run() -> KVReplayResult:
        manager, mover = make(policy, 13, 5, 20)
        result = serve_requests(coming(*requests), manager, mover, OneSecondAToken(), batch=3, gate=gate)
        manager.check()
        return result

    result = run()
    assert result == run()
    assert result.num_requests == 200
    began = [at + waited for (at, _, _), waited in zip(requests, result.queue_s, strict=True)]
    assert began == sorted(began)
    assert all(0 <= waited <= until for waited, until in zip(result.queue_s, result.ttft_s, strict=True))
    assert result.elapsed_s >= result.compute_s + result.stall_s - 1e-6
