"""A replay that is watched is the same replay."""

import json
from dataclasses import replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import pytest

from offload.simulation.scenario_file import load_scenario
from prefetch.load_gate import Gate
from simulators.activity import Activity
from simulators.kv_serving import Arrivals, serve_requests
from simulators.kv_trace.base import KVTrace
from simulators.modelled_mover import EmptyTier, Route
from simulators.scenario import BOUND, Experiment, Scenario
from simulators.watch import ReplayWatch, WatchedClock, WatchedMover
from tests.simulators.test_kv_replay import OneSecondAToken
from tests.simulators.test_kv_serving import coming
from tiers.eviction.registry import make_policy
from tiers.manager import Level, TieredMemoryManager
from tiers.pool import BlockPool

GIB = 2**30
TIERS = {"device": 16 * GIB, "host": 20 * GIB, "nvme": 50 * GIB}


def experiment(**changes: Any) -> tuple[Scenario, Experiment]:
    shipped = load_scenario(Path("mooncake_lru"))
    requests = islice(shipped.trace.requests, 150)
    trace = KVTrace(shipped.trace.format, shipped.trace.block_tokens, requests)
    scenario = replace(shipped, trace=trace, tiers=TIERS, policies=["lru", "arc"], gate=Gate.SOONER, **changes)
    return scenario, Experiment(scenario)


@pytest.mark.parametrize("name", ["lru", "arc", BOUND])
def test_what_is_seen(name: str) -> None:
    scenario, one = experiment()
    row = one.watch(name)
    assert {key: row[key] for key in row if key not in ("timeline", "gap")} == one.run(name)
    assert row == one.watch(name)
    seen = row["timeline"]
    num = len(seen["busy"]["compute"])
    assert 128 <= num <= 256
    assert num * seen["bin_s"] >= row["elapsed_s"] > (num - 1) * seen["bin_s"]
    assert all(len(lane) == num for kind in ("busy", "levels", "counts") for lane in seen[kind].values())
    stalled = seen["busy"].get("stall", [0])
    assert sum(stalled) * seen["bin_s"] == pytest.approx(row["stall_s"], rel=0.05)
    for busy, waiting in zip(seen["busy"]["compute"], stalled, strict=False):
        assert busy + waiting == pytest.approx(1, abs=0.02)  # the device does one or the other
    assert {lane for lane in seen["busy"] if "->" in lane} <= row["links"].keys()
    assert all(max(seen["levels"][level]) <= slots for level, slots in seen["slots"].items())
    assert len(json.dumps(row)) < 32 * 1024
    if name == BOUND:
        assert "gap" not in row
        return
    gap = row["gap"]
    assert gap["hits"] / gap["accesses"] == row["hit_ratio"]
    assert (gap["lost"] - gap["won"]) / gap["accesses"] == pytest.approx(row["belady_gap"])
    assert gap["block_bytes"] == scenario.block_nbytes


@pytest.mark.parametrize(("name", "speed"), [("lru", 0.02), ("arc", 20.0), (BOUND, 20.0)])
def test_requests_that_come_when_the_trace_says(name: str, speed: float) -> None:
    """The same of many at a time: what was found is told in the order of the trace, and an idle device does nothing."""
    _, one = experiment(arrivals=Arrivals.TRACE, speed=speed, batch=4)
    row = one.watch(name)
    assert {key: row[key] for key in row if key not in ("timeline", "gap")} == one.run(name)
    seen = row["timeline"]
    compute, stalled = seen["busy"]["compute"], seen["busy"].get("stall", [0])
    assert sum(stalled) * seen["bin_s"] == pytest.approx(row["stall_s"], rel=0.05)
    both = [busy + waiting for busy, waiting in zip_longest(compute, stalled, fillvalue=0)]
    assert max(both) <= 1.02
    if speed < 1:
        assert sum(both) < 0.9 * len(both), "between two requests there is nothing to do"
    if name != BOUND:
        gap = row["gap"]
        assert gap["hits"] / gap["accesses"] == row["hit_ratio"]
        assert (gap["lost"] - gap["won"]) / gap["accesses"] == pytest.approx(row["belady_gap"])


def test_answers_side_by_side_are_one_lane() -> None:
    """The second request ends first; five seconds before the third one comes nobody computes or waits."""
    clock = WatchedClock(Activity())
    mover = WatchedMover(
        clock,
        {
            "device->host": Route(lambda blocks, nbytes: blocks, "a"),
            "host->device": Route(lambda blocks, nbytes: blocks, "a"),
        },
    )
    levels = [Level(EmptyTier(tier, 9, 1), BlockPool(9), make_policy("lru", 9)) for tier in ("device", "host")]
    manager = TieredMemoryManager(mover, levels, is_cache=True)
    watch = ReplayWatch(manager, clock)
    requests = coming((0.0, 8, [1, 2]), (2.5, 1, [3]), (17.0, 1, [1, 4]))
    result = serve_requests(requests, manager, mover, OneSecondAToken(), batch=2, observer=watch)
    assert result.ttft_s == [2.0, 1.5, 1.0]
    assert watch.found == [False, False, False, True, False]
    seen = clock.activity.as_json(clock.now_s)
    assert seen["busy"].keys() - {"device->host"} == {"compute"}
    assert sum(seen["busy"]["compute"]) * seen["bin_s"] == pytest.approx(result.compute_s, rel=0.01)
    idle = [share for i, share in enumerate(seen["busy"]["compute"]) if 12.2 < i * seen["bin_s"] < 16.8]
    assert len(idle) > 10
    assert not any(idle)
