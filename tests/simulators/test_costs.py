"""Closed forms: what moving and computing take on a known machine."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simulators.flash.closed_loop import closed_loop_s
from simulators.flash.drive_file import load_drive
from simulators.link_costs import drive_s, link_s, routes_of
from simulators.model_costs import ModelShape, read_model_shape
from simulators.profile import DEFAULT, DriveProfile, LinkProfile
from simulators.published import find_published, load_profile, published_names
from simulators.roofline_costs import RooflineCosts
from tiers.errors import InvalidOptionError

DRIVE = DriveProfile(latency_s=50e-6, read_iops=1e6, write_iops=5e5)
LLAMA = read_model_shape(find_published("models", "llama-3.1-8b"))


def test_a_drive_by_depth_and_size() -> None:
    """One at a time latency counts, deep queues of small requests end at the IOPS, large requests at the bandwidth."""
    alone = drive_s(DRIVE, 7e9, 4096 * 1000, 4096, 1, is_read=True)
    assert alone == pytest.approx(1000 * 50e-6)
    deep = drive_s(DRIVE, 7e9, 4096 * 100_000, 4096, 50_000, is_read=True)
    assert deep == pytest.approx(0.1, rel=0.01)
    assert drive_s(DRIVE, 7e9, 4096 * 100_000, 4096, 50_000, is_read=False) == pytest.approx(0.2, rel=0.01)
    large = drive_s(DRIVE, 7e9, 7 * 10**9, 2**20, 16, is_read=True)
    assert large == pytest.approx(1.0, rel=0.01)
    assert drive_s(DRIVE, 7e9, 0, 4096, 1, is_read=True) == 0
    assert drive_s(DRIVE, 7e9, 4096, 2**20, 16, is_read=True) == pytest.approx(50e-6 + 4096 / 7e9)


def test_a_short_last_request_takes_as_long_as_its_bytes() -> None:
    """No more than a request of its own costs a drive that has no more to do."""
    half = 512 * 1024
    one, more, two = (drive_s(DRIVE, 7e9, nbytes, half, 16, is_read=True) for nbytes in (half, half + 1024, 2 * half))
    assert more - one == pytest.approx(1024 / 7e9)
    assert two - one == pytest.approx(half / 7e9)
    slow = drive_s(DRIVE, 7e9, half + 1024, half, 1, is_read=True)
    assert slow == pytest.approx(50e-6 + (half + 1024) / 7e9)


def test_equal_parts_are_as_fast_as_their_mean_values_say() -> None:
    """Exact mean value analysis of 50 equal queues: depth x 50 / (latency x (depth + 49)), half the limit at 50."""
    for depth in (1, 8, 50, 512):
        reads_per_s = depth * 50 / (50e-6 * (depth + 49))
        seconds = drive_s(DRIVE, 7e9, 4096 * 100_000, 4096, depth, is_read=True)
        assert 100_000 / seconds == pytest.approx(reads_per_s)


@pytest.mark.parametrize("name", ["970pro", "pm9a3"])
def test_depth_against_the_dies_of_a_published_drive(name: str) -> None:
    """Each die and channel as events; their times are fixed, so that requests wait a little less than the bound says.

    A minimum of depth over latency and the limit would be up to 57 % too fast.
    """
    drive, random = load_drive(name), np.random.default_rng(0)
    reads = 8000
    dies = [(int(a), int(b)) for a, b in random.integers((drive.channels, drive.dies_per_channel), size=(reads, 2))]
    alone, most = (reads / closed_loop_s(drive, dies, depth) for depth in (1, 2000))
    profile = DriveProfile(1 / alone, most, most)
    for depth in (2, 4, 16, 64, 256):
        simulated = reads / closed_loop_s(drive, dies, depth)
        ours = reads / drive_s(profile, 1e12, reads * 4096, 4096, depth, is_read=True)
        assert 0.75 * simulated < ours < 1.02 * simulated


def test_depth_against_a_drive_with_another_memory() -> None:
    """Optane, reads of 512 bytes, polled (published): 290 thousand a second alone, 2.06 M at 16, 2.58 M at 128."""
    profile = DriveProfile(1 / 290e3, 2.58e6, 2.58e6)
    for depth, published in ((16, 2.06e6), (128, 2.58e6)):
        ours = 100_000 / drive_s(profile, 7e9, 512 * 100_000, 512, depth, is_read=True)
        assert ours == pytest.approx(published, rel=0.25)


@pytest.mark.parametrize("read_iops", [1.0e6, 1.4e6, 1.5e6])
def test_data_sheets_are_nearly_reached_at_their_depth(read_iops: float) -> None:
    """980 PRO, 990 PRO and T700, 45 us alone, 32 requests of each of 16 threads."""
    profile = DriveProfile(45e-6, read_iops, read_iops)
    reads_per_s = 100_000 / drive_s(profile, 12e9, 4096 * 100_000, 4096, 512, is_read=True)
    assert 0.88 * read_iops < reads_per_s < read_iops


@pytest.mark.parametrize("depth", [1, 4, 64])
@pytest.mark.parametrize("size", [4096, 131072])
def test_a_drive_is_never_faster_than_its_limits_and_never_slower_when_deeper(depth: int, size: int) -> None:
    nbytes = 50 * 2**20
    seconds = drive_s(DRIVE, 7e9, nbytes, size, depth, is_read=True)
    assert seconds >= max(nbytes / 7e9, nbytes / size / 1e6) * (1 - 1e-9)
    assert seconds >= drive_s(DRIVE, 7e9, nbytes, size, 2 * depth, is_read=True) * (1 - 1e-9)


def test_a_link() -> None:
    link = LinkProfile(read_bytes_per_s=10.0, write_bytes_per_s=5.0, latency_s=1.0)
    assert link_s(link, 20, is_read=True) == 3.0
    assert link_s(link, 20, is_read=False) == 5.0
    assert link_s(link, 0, is_read=True) == 0.0


def test_a_drive_that_was_measured_by_size_moves_requests_as_fast_as_those_of_their_size() -> None:
    """The runtime's are of 512 KiB. 64 KiB take 64 us, 1 MiB 524 us; whatever the link says of large ones."""
    table = ((2**16, 1.024e9), (2**20, 2.0e9))
    link = LinkProfile(read_bytes_per_s=9e9, write_bytes_per_s=9e9, latency_s=1e-3, by_size=table)
    profile = replace(DEFAULT, links={**DEFAULT.links, "nvme->device": link})
    half_s = 64e-6 + (2**19 - 2**16) / (2**20 - 2**16) * (2**20 / 2e9 - 64e-6)
    routes = routes_of(profile, ("device", "host", "nvme"))
    for name in ("nvme->device", "nvme->host"):
        assert routes[name].seconds(1, 2**30) == pytest.approx(1e-3 + 2**11 * half_s)
        assert routes[name].seconds(1, 2**15) == pytest.approx(1e-3 + 32e-6), "as fast as the smallest"
    large = routes_of(profile, ("device", "nvme"), request_nbytes=2**22)["nvme->device"]
    assert large.seconds(1, 2**30) == pytest.approx(1e-3 + 2**30 / 2e9), "as fast as the largest"
    drive = DriveProfile(50e-6, 1e6, 1e6)
    routes = routes_of(replace(profile, drive=drive), ("device", "nvme"))
    assert routes["nvme->device"].seconds(1, 2**30) == pytest.approx(50e-6 + 2**11 * half_s)
    assert routes["device->nvme"].seconds(1, 3 * 10**8) == pytest.approx(1.0, rel=1e-3), "not measured by size"


def test_routes_share_what_they_share() -> None:
    routes = routes_of(DEFAULT, ("device", "host", "nvme"))
    assert set(routes) >= {"device->host", "host->nvme", "nvme->device"}
    assert {routes[name].wire for name in routes if "nvme" in name} == {"nvme"}
    assert routes["host->device"].wire != routes["device->host"].wire
    assert routes["nvme->host"].seconds(1, 10**9) == routes["nvme->device"].seconds(1, 10**9)
    without = replace(DEFAULT, links={})
    with pytest.raises(InvalidOptionError, match="the profile 'default' has no link device->host; it has"):
        routes_of(without, ("device", "host"))


@pytest.mark.parametrize("name", published_names("profiles"))
def test_published_profiles_say_where_each_number_is_from(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.drive is not None
    told = {"memory_bytes_per_s", "flops", "links.nvme"}
    if not profile.unified_memory:
        told |= {"links.host<->device", "gds"}
        assert profile.bytes_per_s("host->device") > profile.bytes_per_s("nvme->device")
    if profile.memory_nbytes is not None:
        told.add("memory_nbytes")
    assert told <= set(profile.sources)
    assert 0 < profile.flops_share < profile.memory_share < 1
    assert RooflineCosts(LLAMA, profile, 1).decode_s(1, 1000) > 0


def test_half_precision_is_never_slower_than_the_single_one_that_stands_for_it() -> None:
    """Libraries multiply in FP32 where a device has no fast FP16; nobody waits for a 64th of it."""
    for name in published_names("profiles"):
        profile = load_profile(name)
        if profile.device != "cpu":
            assert profile.flops_per_s("float16") >= profile.flops_per_s("float32")


def test_names_that_do_not_ship(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidOptionError, match=r"'a10' is none of the profiles that ship, and no file; did you mean 'a100'\?"
    ):
        load_profile("a10")
    with pytest.raises(InvalidOptionError, match=r"name a file, or one of llama"):
        find_published("models", "???")


def test_sizes_of_a_known_model() -> None:
    """Llama 3.1 8B: 8.03 B weights with the embedding, of which half a billion are not multiplied with."""
    assert LLAMA.kv_nbytes_per_token == 131_072
    assert LLAMA.active_weights == pytest.approx(7.5e9, rel=0.01)
    mixtral = read_model_shape(find_published("models", "mixtral-8x7b"))
    assert mixtral.active_weights == pytest.approx(12.7e9, rel=0.02)
    assert mixtral.nbytes_read(1) == pytest.approx(2 * mixtral.active_weights)
    assert mixtral.nbytes_read(1000) == pytest.approx(2 * 46.5e9, rel=0.02)


def test_prefill_is_arithmetic_and_decoding_is_reading() -> None:
    a100 = replace(load_profile("a100"), memory_share=1.0, flops_share=1.0)
    costs = RooflineCosts(LLAMA, a100)
    attention = LLAMA.attention_flops(4096, 0)
    head = LLAMA.head_weights
    once = 2 * ((LLAMA.active_weights - head) * 4096 + head)
    assert costs.prefill_s(4096, 0) == pytest.approx((once + attention) / 312e12), "one token goes through the head"
    assert costs.prefill_s(4096, 4096) > costs.prefill_s(4096, 0)
    assert costs.prefill_s(0, 100) == 0
    assert costs.prefill_s(1, 0) == pytest.approx(2 * 7.5e9 / 2039e9, rel=0.01)
    assert costs.decode_s(100, 0) == pytest.approx(100 * 2 * 7.5e9 / 2039e9, rel=0.01)
    assert costs.prefill_s(1, 10**6) == pytest.approx(costs.step_s(1, 10**6), rel=0.01), "keys and values are read too"
    side_by_side = RooflineCosts(LLAMA, a100, 16)
    assert side_by_side.decode_s(100, 0) < costs.decode_s(100, 0) / 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": None}, "'num_hidden_layers' is missing"),
        ({"hidden_size": "4096"}, "'hidden_size' is '4096'; it must be a whole number"),
        ({"dtype": "int3"}, "'dtype' is 'int3'; it must be one of float32, float16, bfloat16"),
    ],
)
def test_configurations_that_say_too_little(tmp_path: Path, change: dict[str, object], message: str) -> None:
    config = json.loads(find_published("models", "llama-3.1-8b").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}), encoding="utf-8")
    with pytest.raises(InvalidOptionError, match=message):
        read_model_shape(tmp_path / "config.json")


def test_a_configuration_that_is_none(tmp_path: Path) -> None:
    for text in ("nonsense", "[1]"):
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
        with pytest.raises(InvalidOptionError, match=r"is no config\.json of a model"):
            read_model_shape(tmp_path / "config.json")


def test_a_text_model_inside_another(tmp_path: Path) -> None:
    config = json.loads(find_published("models", "llama-3.1-8b").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({"text_config": config}), encoding="utf-8")
    shape: ModelShape = read_model_shape(tmp_path / "config.json")
    assert shape == LLAMA
