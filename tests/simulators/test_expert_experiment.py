"""Experts in virtual time: bounds hold, bytes add up, and a tiny trace comes out as it does by hand."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from prefetch.base import Prediction
from prefetch.expert_predictor import ExpertPredictor
from prefetch.next_gate import NextGatePredictor
from prefetch.oracle import OraclePredictor
from simulators.expert_experiment import ExpertExperiment
from simulators.expert_setting import ExpertSetting
from simulators.expert_trace import ExpertTrace
from simulators.expert_visits import keys_of, passes_of
from simulators.model_costs import ModelShape
from simulators.profile import HardwareProfile, LinkProfile
from simulators.routing_generator import RoutingShape, generate_routing
from tiers.block import BlockKey
from tiers.errors import BudgetError, InvalidOptionError, TraceError

SHAPE = ModelShape(
    layers=2,
    hidden=8,
    heads=2,
    kv_heads=2,
    head_dim=4,
    intermediate=32,
    vocabulary=16,
    experts=4,
    experts_per_token=1,
    dtype="float16",
)
EXPERT = 3 * 8 * 32 * 2
"""Bytes of one."""
LINKS = {
    "nvme->device": LinkProfile(1000.0 * EXPERT, 1000.0 * EXPERT, 0.0),
    "device->nvme": LinkProfile(1000.0 * EXPERT, 1000.0 * EXPERT, 0.0),
    "host->device": LinkProfile(4000.0 * EXPERT, 4000.0 * EXPERT, 0.0),
    "device->host": LinkProfile(4000.0 * EXPERT, 4000.0 * EXPERT, 0.0),
}
SLOW = 16.0 * 1024 * EXPERT
PROFILE = HardwareProfile("toy", "by hand", "cuda", memory_bytes_per_s=SLOW, flops={"float16": 1e18}, links=LINKS)


def trace_of(*choices: tuple[int, int]) -> ExpertTrace:
    """A prompt of one token, then tokens that choose these experts in layers 0 and 1."""
    count = len(choices)
    return ExpertTrace(
        model="by hand",
        num_experts=4,
        layers=np.arange(2, dtype=np.int32),
        tokens=np.arange(count, dtype=np.int32),
        requests=np.zeros(count, np.int32),
        passes=np.arange(count, dtype=np.int32),
        experts=np.array(choices, np.int16)[..., None],
        weights=np.ones((count, 2, 1), np.float16),
        gate_inputs=np.zeros((count, 2, 0), np.float16),
        gates=np.zeros((2, 4, 0), np.float32),
    )


def experiment(trace: ExpertTrace, device: int, host: int = 0, **other: Any) -> ExpertExperiment:
    tiers = {"device": device * EXPERT} | ({"host": host * EXPERT} if host else {})
    return ExpertExperiment(ExpertSetting(trace, other.pop("profile", PROFILE), other.pop("shape", SHAPE), tiers))


def test_by_hand() -> None:
    """Three slots; the prompt leaves 0a and 1a there. Then 0a hits, 1b comes (full), 0b and 1a follow."""
    trace = trace_of((0, 0), (0, 1), (1, 0), (0, 1))
    row = experiment(trace, 3).row("lru")
    # lru: 0a 1a | 0a hit, 1b miss | 0b miss for 1a, 1a miss for 0a | 0a miss for 1b, 1b miss for 0b
    assert row["hit_ratio"] == 1 / 6
    assert row["links"] == {"nvme->device": 5 * EXPERT}
    assert row["bytes"] == 5 * EXPERT
    # The links move 1000 experts a second, and nothing is computed meanwhile.
    assert row["stall_s"] == pytest.approx(5 / 1000)
    # Read from memory, for a token: one expert in each of 2 layers, 2 x 4 matrices of 8 x 8, the head, earlier tokens.
    read = 2 * EXPERT + 2 * (2 * 4 * 8 * 8) + 2 * 8 * 16
    kv = (1 + 2 + 3) * 2 * 2 * 2 * 4 * 2
    assert row["elapsed_s"] == pytest.approx(5 / 1000 + (3 * read + kv) / SLOW)
    assert row["tokens_per_s"] == pytest.approx(3 / row["elapsed_s"])
    # Belady: 0b takes the place of 1b, which is used last; then 1b comes again.
    best = experiment(trace, 3).belady()
    assert best["hit_ratio"] == 0.5
    assert best["links"] == {"nvme->device": 3 * EXPERT}
    assert row["belady_gap"] == pytest.approx(0.5 - 1 / 6)
    perfect = experiment(trace, 3).perfect()
    assert perfect["bytes"] == 3 * EXPERT
    assert perfect["elapsed_s"] == pytest.approx(max(3 / 1000, (3 * read + kv) / SLOW))


class Next(ExpertPredictor):
    """Says 1b after layer 0, always, and is sure of it."""

    def __init__(self, trace: ExpertTrace) -> None:
        self._key = keys_of(trace)[1][1]

    def predict(self, step: int) -> list[Prediction[BlockKey]]:
        return [Prediction([self._key], 1.0, 1)] if step == 0 else []


def test_what_is_fetched_ahead_is_counted_by_hand() -> None:
    """1b is fetched ahead in each of three steps and used in two of them; the prompt fetches it for nothing."""
    trace = trace_of((0, 0), (0, 1), (1, 0), (2, 1))
    row = experiment(trace, 2).row("fifo", Next(trace))
    assert 0 < row["prefetched_ratio"] <= 2 / 6
    assert row["late_ratio"] == row["prefetched_ratio"]  # computing a layer takes less than a transfer
    moved = row["bytes"] / EXPERT
    used = round(6 * (1 - row["hit_ratio"]) + 6 * row["prefetched_ratio"])
    # What the prompt fetched ahead was moved before the first step, and is written off in it.
    assert moved + 1 == used + row["wasted_bytes"] / EXPERT


def test_host_copies_come_sooner() -> None:
    trace = trace_of((0, 0), (0, 1), (1, 0), (0, 1), (2, 3))
    drive, both, host = (experiment(trace, 3, copies).row("lru") for copies in (0, 4, 8))
    assert drive["hit_ratio"] == both["hit_ratio"] == host["hit_ratio"]
    assert drive["elapsed_s"] > both["elapsed_s"] > host["elapsed_s"]
    assert set(both["links"]) == {"nvme->device", "host->device"}
    assert host["links"] == {"host->device": drive["bytes"]}


@pytest.fixture(scope="module")
def routing() -> ExpertTrace:
    return generate_routing([(8, 12)] * 2, 6, 8, 2, shape=RoutingShape(), seed=3)


WIDE = replace(SHAPE, layers=6, experts=8, experts_per_token=2)


def test_bounds_hold_and_the_same_comes_out_again(routing: ExpertTrace) -> None:
    trial = experiment(routing, 12, 16, shape=WIDE)
    best, perfect = trial.belady(), trial.perfect()
    for policy in ("lru", "lfu", "arc", "expected_use", "fifo"):
        row = trial.row(policy)
        assert row == trial.row(policy)
        assert row["hit_ratio"] <= best["hit_ratio"]
        assert row["prefetched_ratio"] == row["late_ratio"] == row["wasted_bytes"] == 0
        assert row["tokens_per_s"] <= perfect["tokens_per_s"]
    assert best["hit_ratio"] == pytest.approx(trial.row("batch_plan")["hit_ratio"])
    assert best["tokens_per_s"] <= perfect["tokens_per_s"]


def test_where_all_fit_nobody_misses(routing: ExpertTrace) -> None:
    trial = experiment(routing, 48, shape=WIDE)
    row, best, perfect = trial.row("lru"), trial.belady(), trial.perfect()
    assert row["hit_ratio"] == best["hit_ratio"] == 1.0
    assert row["belady_gap"] == 0.0
    assert row["bytes"] == perfect["bytes"] == 0


def predictors(trace: ExpertTrace) -> Sequence[ExpertPredictor]:
    visits = [one.visits for one in passes_of(trace)]
    return [NextGatePredictor(list(trace.gates), keys_of(trace), 2), OraclePredictor(visits, range(6))]


def test_fetching_ahead_helps_and_its_bytes_add_up(routing: ExpertTrace) -> None:
    trial = experiment(routing, 16, shape=WIDE)
    accesses = sum(len(visit) for one in passes_of(routing) if one.is_decode for visit in one.visits)
    for predictor in predictors(routing):
        row = trial.row("lru", predictor)
        assert row["prefetched_ratio"] > 0
        assert row["hit_ratio"] > trial.row("lru")["hit_ratio"]
        assert row["tokens_per_s"] <= trial.perfect()["tokens_per_s"]
        # What is on its way when a step ends is used in the next, which may be a prompt's.
        used = accesses * (1 - row["hit_ratio"] + row["prefetched_ratio"])
        assert row["bytes"] / EXPERT == pytest.approx(used + row["wasted_bytes"] / EXPERT, abs=4)


def test_where_all_fits_nothing_moves(routing: ExpertTrace) -> None:
    row = experiment(routing, 48, shape=WIDE).row("lru", predictors(routing)[0])
    assert (row["hit_ratio"], row["bytes"], row["stall_s"]) == (1.0, 0, 0.0)


def test_what_does_not_fit() -> None:
    trace = trace_of((0, 0), (0, 1))
    with pytest.raises(TraceError, match="of 2 layers of 4 experts, 1 a token; the model has 2 layers of 8, 1 a token"):
        experiment(trace, 3, shape=replace(SHAPE, experts=8))
    with pytest.raises(TraceError, match="has no decode step"):
        experiment(trace_of((0, 0)), 3)
    with pytest.raises(BudgetError, match="'device' has 0 bytes; one layer of a step needs 1 experts"):
        experiment(trace, 0)
    with pytest.raises(
        InvalidOptionError, match=r"besides .* of other weights, keys and values; 'toy' has 1,000; give"
    ):
        experiment(trace, 3, profile=replace(PROFILE, memory_nbytes=1000))
