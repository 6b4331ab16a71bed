"""Read-ME's and ExpertFlow's ways of putting tokens together that need the same experts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from prefetch.expert_queues import GatedRequest, expert_batches
from prefetch.token_scheduler import active_experts, split_tokens
from tiers.errors import InvalidOptionError

REQUESTS = st.lists(st.tuples(st.integers(0, 4), st.integers(1, 6)), max_size=30)


def gated(pairs: list[tuple[int, int]]) -> list[GatedRequest[int]]:
    return [GatedRequest(i, expert, tokens) for i, (expert, tokens) in enumerate(pairs)]


@given(REQUESTS, st.integers(6, 15))
def test_every_request_is_in_one_batch(pairs: list[tuple[int, int]], max_tokens: int) -> None:
    requests = gated(pairs)
    batches = list(expert_batches(requests, max_tokens))
    assert sorted(one.request for batch in batches for one in batch) == list(range(len(requests)))
    assert all(0 < sum(one.num_tokens for one in batch) <= max_tokens for batch in batches)
    # Within an expert nobody overtakes.
    for expert in range(5):
        order = [one.request for batch in batches for one in batch if one.expert == expert]
        assert order == sorted(order)


def test_the_longest_queue_first_and_the_rest_filled_up() -> None:
    requests = gated([(0, 1), (1, 1), (1, 1), (2, 1), (1, 1), (2, 1)])
    batches = list(expert_batches(requests, 4))
    assert [[one.request for one in batch] for batch in batches] == [[1, 2, 4, 3], [0, 5]]


def test_no_more_experts_than_in_the_order_of_arrival() -> None:
    random = np.random.default_rng(0)
    requests = gated([(int(random.integers(0, 7)), 1) for _ in range(400)])
    batches = list(expert_batches(requests, 16))
    arrived = [requests[i : i + 16] for i in range(0, 400, 16)]
    assert sum(len({one.expert for one in batch}) for batch in batches) < 0.5 * sum(
        len({one.expert for one in batch}) for batch in arrived
    )


@pytest.mark.parametrize("tokens", [0, 9])
def test_requests_that_fit_no_batch(tokens: int) -> None:
    with pytest.raises(InvalidOptionError, match=f"request 0 has {tokens} tokens"):
        expert_batches(gated([(0, tokens)]), 8)


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12)))
def test_halves_that_need_no_more_than_before(paths: "np.ndarray[tuple[int, int], np.dtype[np.bool_]]") -> None:
    count = len(paths)
    first, second = split_tokens(paths)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(count))
    assert len(first) == (count + 1) // 2
    before = active_experts(paths[: len(first)]) + active_experts(paths[len(first) :])
    assert active_experts(paths[first]) + active_experts(paths[second]) <= before


def test_tokens_of_two_topics_come_apart() -> None:
    random = np.random.default_rng(3)
    topics = random.random((2, 240)) < 0.25
    of_topic = np.arange(32) % 2
    paths = topics[of_topic] ^ (random.random((32, 240)) < 0.01)
    first, second = split_tokens(paths)
    assert {tuple(of_topic[first]), tuple(of_topic[second])} == {(0,) * 16, (1,) * 16}
