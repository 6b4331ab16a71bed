"""A replay that is watched is the same replay."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from offload.simulation.scenario_file import load_scenario
from prefetch.load_gate import Gate
from simulators.kv_trace.base import KVTrace
from simulators.scenario import BOUND, Experiment, Scenario

GIB = 2**30


def experiment() -> tuple[Scenario, Experiment]:
    shipped = load_scenario(Path("mooncake_lru"))
    requests = islice(shipped.trace.requests, 150)
    trace = KVTrace(shipped.trace.format, shipped.trace.block_tokens, requests)
    tiers = {"device": 16 * GIB, "host": 20 * GIB, "nvme": 50 * GIB}
    scenario = replace(shipped, trace=trace, tiers=tiers, policies=["lru", "arc"], gate=Gate.SOONER)
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
