"""Requests together: which tokens share a pass."""

import numpy as np

from simulators.expert_visits import passes_of
from simulators.papers.side_by_side import side_by_side
from simulators.routing_generator import generate_routing

TRACE = generate_routing([(0, 3), (0, 2), (0, 1)], 2, 8, 2)


def test_two_at_a_time() -> None:
    """Requests 0 and 1 together, and when both are done the third."""
    together = side_by_side(TRACE, 2)
    assert together.requests.tolist() == [0, 1, 0, 1, 0, 2]
    assert together.passes.tolist() == [0, 0, 1, 1, 2, 3]
    by_request = [TRACE.experts[TRACE.requests == one] for one in range(3)]
    for one, experts in enumerate(by_request):
        assert (together.experts[together.requests == one] == experts).all()
    assert [one.num_requests for one in passes_of(together)] == [2, 2, 1, 1]


def test_in_turns() -> None:
    turns = side_by_side(TRACE, 3, one_by_one=True)
    assert turns.requests.tolist() == [0, 1, 2, 0, 1, 0]
    assert turns.passes.tolist() == list(range(6))
    assert np.array_equal(side_by_side(TRACE, 1).experts, TRACE.experts)
