"""Boards with one memory for GPU and processor: no tier and no link beside the device, and one bandwidth for all."""

from dataclasses import replace

import pytest

from simulators.generation_costs import GenerationCosts
from simulators.kv_trace.base import KVTrace
from simulators.kv_trace.generate import ChatWorkload
from simulators.link_costs import capacities_of, loads_of_decoding
from simulators.model_costs import read_model_shape
from simulators.profile import HardwareProfile
from simulators.published import find_published, load_profile
from simulators.runtime_profile import RuntimeProfile
from simulators.scenario import Experiment, Scenario
from tiers.errors import InvalidOptionError

SHAPE = read_model_shape(find_published("models", "smollm2-135m"))
MIB = 2**20


def trace() -> KVTrace:
    return ChatWorkload(num_requests=150, turns=6.0, block_tokens=64, output_tokens=60).trace()


def scenario(profile: HardwareProfile, **tiers: int) -> Scenario:
    return Scenario(trace(), profile, SHAPE, {name: nbytes * MIB for name, nbytes in tiers.items()}, ["lru"])


@pytest.mark.parametrize("name", ["jetson_agx_orin", "jetson_orin_nano"])
def test_nothing_crosses_from_host_to_device(name: str) -> None:
    """In a replay the drive is the only link, each way; watched or not, it is the same replay."""
    profile = load_profile(name)
    experiment = Experiment(scenario(profile, device=256, nvme=2048))
    row = experiment.run("lru")
    assert row["links"].keys() == {"nvme->device", "device->nvme"}
    assert all(row["links"].values())
    watched = experiment.watch("lru")
    assert {key: watched[key] for key in row} == row
    busy = watched["timeline"]["busy"]
    assert sum(busy["compute"]) * watched["timeline"]["bin_s"] == pytest.approx(
        row["elapsed_s"] - row["stall_s"], rel=0.05
    )


def test_generating_is_slower_while_the_drive_works() -> None:
    """By no more than what the drive moves takes of the memory; were they apart, it would not be slower at all."""
    profile = load_profile("jetson_orin_nano")
    port = profile.links["nvme->device"]
    links = {**profile.links, "host->device": port, "device->host": port}
    working = []
    for one in (profile, replace(profile, unified_memory=False, links=links)):
        row = Experiment(scenario(one, device=256, nvme=2048)).run("lru")
        working.append(row["elapsed_s"] - row["stall_s"])
    most = row["bytes"] / capacities_of(profile)["host memory"]
    assert 0 <= working[0] - working[1] <= most * 1.01


def test_a_tier_beside_the_device_is_refused() -> None:
    expected = "tiers: 'host': device and host are one memory in the profile 'jetson_orin_nano'; give its bytes to 'dev"
    with pytest.raises(InvalidOptionError, match=expected):
        scenario(load_profile("jetson_orin_nano"), device=256, host=256)


def test_what_computing_keeps_while_a_drive_is_read() -> None:
    orin = load_profile("jetson_agx_orin")
    memory = capacities_of(orin)["host memory"]
    assert memory == pytest.approx(0.84 * 204.8e9)
    assert loads_of_decoding(orin) == {"host memory": memory}
    assert GenerationCosts(orin, "float16").busy_share == pytest.approx(memory / (memory + 7e9))
    measured = replace(orin, runtime=RuntimeProfile(busy_share=0.9))
    assert GenerationCosts(measured, "float16").busy_share == 0.9, "that was measured with all that it shares"
    h100 = load_profile("h100")
    assert loads_of_decoding(h100) == {}
    assert GenerationCosts(h100, "float16").busy_share == 1.0
