"""How many experts a step touches, by hand and on routing with topics."""

import numpy as np
import pytest

from simulators.expert_batching import compare_batching
from simulators.expert_trace import ExpertTrace
from simulators.routing_generator import RoutingShape, generate_routing
from tiers.errors import TraceError

EXPERTS = 4


def by_hand(requests: list[list[list[int]]], *, num_layers: int = 1) -> ExpertTrace:
    """Each request is the experts of its tokens, one a layer; the first token is its prompt."""
    experts = np.array([token for request in requests for token in request], np.int16)[..., None]
    lengths = [len(request) for request in requests]
    count = len(experts)
    return ExpertTrace(
        model="by hand",
        num_experts=EXPERTS,
        layers=np.arange(num_layers, dtype=np.int32),
        tokens=np.arange(count, dtype=np.int32),
        requests=np.repeat(np.arange(len(requests), dtype=np.int32), lengths),
        passes=np.arange(count, dtype=np.int32),
        experts=experts,
        weights=np.ones(experts.shape, np.float16),
        gate_inputs=np.zeros((count, num_layers, 0), np.float16),
        gates=np.zeros((num_layers, EXPERTS, 0), np.float32),
    )


def test_by_hand() -> None:
    """Requests 0 and 2 always use expert 0, 1 and 3 always expert 1; 3 has one step fewer."""
    trace = by_hand([[[0], [0], [0]], [[1], [1], [1]], [[0], [0], [0]], [[1], [1]]])
    rows = {row.grouping: row for row in compare_batching(trace, 2)}
    arrival = rows.pop("by arrival")
    assert (arrival.experts_per_step, arrival.experts_per_token) == (7 / 4, 7 / 7)
    assert len(rows) == 4
    for row in rows.values():
        assert (row.experts_per_step, row.experts_per_token) == (4 / 4, 4 / 7)


def test_what_is_foreseen_of_the_prompts_is_one_way() -> None:
    """A predictor that takes even requests for one topic and odd ones for another."""
    trace = generate_routing([(8, 12)] * 8, 2, EXPERTS, 2, seed=3)
    seen: list[int] = []

    def foresee(
        tokens: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]", position: int
    ) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
        assert (tokens.shape, position) == ((1, 8), 0)
        assert tokens[0].tolist() == trace.tokens[20 * len(seen) : 20 * len(seen) + 8].tolist()
        paths = np.zeros((8, 2, EXPERTS), np.float32)
        paths[:, :, [0, 1] if len(seen) % 2 else [2, 3]] = 0.9
        seen.append(1)
        return paths

    rows = {row.grouping for row in compare_batching(trace, 2, foresee)}
    assert "by predicted paths" in rows
    assert len(seen) == 8


def test_topics_are_worth_grouping_by() -> None:
    """Requests with a topic of their own each: those of alike topics are found, and nothing beats knowing the steps."""
    made = [
        generate_routing([(12, 10)], 4, 16, 2, shape=RoutingShape(topic=0.9, locality=0.8), seed=i % 4)
        for i in range(16)
    ]
    parts = {
        name: np.concatenate([getattr(one, name) for one in made])
        for name in ("tokens", "experts", "weights", "gate_inputs")
    }
    lengths = [len(one.tokens) for one in made]
    trace = ExpertTrace(
        model="topics",
        num_experts=16,
        layers=made[0].layers,
        requests=np.repeat(np.arange(16, dtype=np.int32), lengths),
        passes=np.concatenate([one.passes + 100 * i for i, one in enumerate(made)]),
        gates=made[0].gates,
        **parts,
    )
    rows = {row.grouping: row.experts_per_step for row in compare_batching(trace, 4)}
    arrival = rows["by arrival"]
    assert rows["by the paths of the prompts (ExpertFlow)"] < 0.6 * arrival
    assert rows["by queues of the prompts' experts (Read-ME)"] < arrival
    assert rows["anew at every step, by known paths"] < 0.6 * arrival


def test_a_trace_without_company() -> None:
    with pytest.raises(TraceError, match="has 1 requests with decode steps; record more"):
        compare_batching(generate_routing([(4, 4)], 2, 4, 1), 2)
