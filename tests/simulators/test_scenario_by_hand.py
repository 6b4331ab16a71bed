"""Every figure of a row against what can be worked out with a pencil: three prompts, three slots on the device.

The last block of the third prompt is short.
"""

from collections.abc import Iterator

import pytest

from simulators.kv_trace.base import KVTrace, Request
from simulators.machine_costs import PowerProfile, PriceProfile
from simulators.model_costs import ModelShape
from simulators.profile import HardwareProfile, LinkProfile
from simulators.scenario import Scenario, run_scenario

BLOCK_TOKENS = 64
SHAPE = ModelShape(2, 8, 2, 1, 4, 16, 10, 1, 1, "float32")
BLOCK = BLOCK_TOKENS * 2 * 2 * 4 * 4
"""Bytes: keys and values of two layers of one head of four numbers of four bytes."""
LINK = LinkProfile(read_bytes_per_s=1e6, write_bytes_per_s=1e6, latency_s=0.001)
MACHINE = HardwareProfile(
    name="paper",
    source="made up",
    device="cuda",
    memory_bytes_per_s=1e12,
    flops={"float32": 1e6},
    links={"device->host": LINK, "host->device": LINK},
    power=PowerProfile(100.0, 300.0, 10.0, 0.0, 0.0, 0.0, 0.0),
    price=PriceProfile(1000.0, 500.0, 0.0, 0.0, 0.1, 1.0, 1.0),
)


def requests() -> Iterator[Request]:
    yield Request(0.0, 128, 10, [0, 1])
    yield Request(1.0, 128, 10, [2, 3])
    yield Request(2.0, 150, 10, [0, 1, 4])


def flops(tokens: int, context: int) -> float:
    """Of a pass: two for each weight, four for each head, layer, width and pair. The last token alone has logits."""
    layers, head = 2 * (8 * 4 * (2 * 2 + 2 * 1) + 3 * 8 * 16), 8 * 10
    return 2 * (layers * tokens + head) + 4 * 2 * 2 * 4 * (tokens * context + tokens * (tokens + 1) / 2)


def test_every_figure() -> None:
    scenario = Scenario(
        KVTrace("by hand", BLOCK_TOKENS, requests()), MACHINE, SHAPE, {"device": 3 * BLOCK, "host": 8 * BLOCK}, ["lru"]
    )
    row, bound = run_scenario(scenario)
    # The second prompt takes the place of block 0, so that one of the third's two known blocks is on the device.
    assert (row["hit_ratio"], row["device_hit_ratio"]) == (2 / 7, 1 / 7)
    assert (bound["hit_ratio"], row["belady_gap"]) == (2 / 7, 0)
    # Each of the five blocks is copied down once, and one comes back.
    assert row["links"] == {"device->host": 5 * BLOCK, "host->device": BLOCK}
    assert row["bytes"] == sum(row["links"].values())

    first, third = flops(128, 0) / 1e6, flops(22, 128) / 1e6
    # Nine tokens each, halfway from 128 to 137 and from 150 to 159; the tenth, the first one, comes out of the prompt.
    answers = 9 * (2 * flops(1, 132) + flops(1, 154)) / 1e6
    compute = 2 * first + third + answers
    load = 0.001 + BLOCK / 1e6
    assert bound["elapsed_s"] == pytest.approx(compute)
    assert row["elapsed_s"] == pytest.approx(bound["elapsed_s"] + row["stall_s"])
    assert row["stall_s"] == pytest.approx(load)
    assert row["ttft_percentiles_s"]["100"] == pytest.approx(max(first, third + load))
    assert bound["ttft_s"] == pytest.approx(first)
    assert row["tokens_per_s"] == pytest.approx(30 / row["elapsed_s"])
    times = list(row["ttft_percentiles_s"].values())
    assert times == sorted(times)

    joules = 110 * row["elapsed_s"] + 200 * bound["elapsed_s"]
    assert row["energy_j_per_token"] == pytest.approx(joules / 30)
    dollars = 1500 * row["elapsed_s"] / (365.25 * 24 * 3600) + 0.1 * joules / 3.6e6
    assert row["price_per_million_tokens"] == pytest.approx(1e6 * dollars / 30)
