from collections.abc import Callable
from itertools import pairwise

import pytest

from simulators.kv_trace.base import KVTrace
from simulators.kv_trace.generate import ChatWorkload, SharedPrefixWorkload, Workload, ZipfWorkload
from simulators.kv_trace.statistics import kv_trace_statistics
from tiers.errors import InvalidOptionError, WorkloadWarning

MAKERS: tuple[Callable[[int], KVTrace], ...] = (
    lambda seed: ZipfWorkload(num_requests=300, seed=seed).trace(),
    lambda seed: SharedPrefixWorkload(num_requests=300, seed=seed).trace(),
    lambda seed: ChatWorkload(num_requests=300, seed=seed).trace(),
)


@pytest.mark.parametrize("make", MAKERS)
def test_the_same_seed_makes_the_same_trace(make: Callable[[int], KVTrace]) -> None:
    requests = list(make(1).requests)
    assert list(make(1).requests) == requests
    assert list(make(2).requests) != requests
    assert len(requests) == 300
    assert requests[0].arrival_s == 0
    assert all(before.arrival_s <= after.arrival_s for before, after in pairwise(requests))
    assert all(len(set(request.blocks)) == len(request.blocks) for request in requests)


@pytest.mark.parametrize("make", MAKERS)
def test_a_block_is_always_at_the_same_depth_behind_the_same_block(make: Callable[[int], KVTrace]) -> None:
    before: dict[int, int | None] = {}
    for request in make(1).requests:
        for block, parent in zip(request.blocks, [None, *request.blocks], strict=False):
            assert before.setdefault(block, parent) == parent


def test_rate_and_lengths() -> None:
    statistics = kv_trace_statistics(ZipfWorkload(num_requests=4000, requests_per_s=5.0, output_tokens=50).trace())
    assert statistics.duration_s == pytest.approx(800, rel=0.1)
    assert statistics.output_tokens / 4000 == pytest.approx(50, rel=0.1)
    assert statistics.input_tokens == 4000 * 17 * 512


def test_prompts_alone() -> None:
    """A mean of no tokens is none, not the one token that a geometric distribution begins with."""
    for trace in (make(num_requests=20, output_tokens=0).trace() for make in (ZipfWorkload, ChatWorkload)):
        assert {request.output_tokens for request in trace.requests} == {0}


def test_skew_makes_hits() -> None:
    def ideal(skew: float) -> float:
        trace = ZipfWorkload(num_requests=1000, num_documents=200, own_blocks=0, skew=skew).trace()
        return kv_trace_statistics(trace, slots=20 * 16).ideal_hit_ratio

    with pytest.warns(WorkloadWarning, match="equally popular"):
        even = ideal(0.0)
    assert even < ideal(0.8) < ideal(1.6)


def test_turns_of_a_conversation_share_what_was_said() -> None:
    alone = kv_trace_statistics(ChatWorkload(num_requests=500, turns=1).trace())
    assert alone.ideal_hit_ratio == 0
    talk = kv_trace_statistics(ChatWorkload(num_requests=500, turns=8).trace())
    assert talk.ideal_hit_ratio > 0.6
    assert talk.duration_s == pytest.approx(500, rel=0.5)


def test_sizes_that_make_no_sense() -> None:
    with pytest.raises(InvalidOptionError, match="'num_documents' of a workload is 0; it must be above 0"):
        ZipfWorkload(num_documents=0)
    with pytest.raises(InvalidOptionError, match=r"'output_tokens' .* it must be at most 1,000,000"):
        ChatWorkload(output_tokens=10**21)
    with pytest.raises(InvalidOptionError, match="'requests_per_s' of a workload is -1"):
        Workload(requests_per_s=-1)
