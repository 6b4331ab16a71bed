"""A profile survives its file; a damaged file is refused with the key at fault."""

import json
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulators.link_costs import link_s
from simulators.machine_costs import HostProfile, PowerProfile, PriceProfile, SharedProfile
from simulators.profile import DEFAULT, LINKS, HardwareProfile, LinkProfile
from simulators.profile_file import read_profile, write_profile
from simulators.runtime_profile import RuntimeProfile
from tiers.errors import InvalidOptionError
from tiers.kvikio_settings import KvikioSettings

RATES = st.floats(1, 1e15)
LINK_PROFILES = st.builds(
    LinkProfile,
    RATES,
    RATES,
    st.floats(0, 10),
    st.none() | st.dictionaries(st.integers(1, 2**40), RATES, min_size=1).map(lambda rows: tuple(sorted(rows.items()))),
)
TABLES = st.dictionaries(
    st.text(),
    st.dictionaries(st.integers(1, 2**40), RATES, min_size=1).map(lambda rows: tuple(sorted(rows.items()))),
)
RUNTIMES = st.builds(
    RuntimeProfile, products=TABLES, vector_products=TABLES, cores=st.integers(1, 99), layer_s=st.floats(0, 10)
)
PROFILES = st.builds(
    HardwareProfile,
    name=st.text(),
    source=st.text(),
    device=st.sampled_from(["cpu", "cuda:0"]),
    memory_bytes_per_s=RATES,
    memory_nbytes=st.none() | st.integers(1, 2**50),
    flops=st.dictionaries(st.text(), RATES, min_size=1),
    links=st.fixed_dictionaries(dict.fromkeys(LINKS, LINK_PROFILES)),
    kernels=st.none() | st.dictionaries(st.text(), st.integers(0, 2**20)),
    kvikio=st.none() | st.builds(KvikioSettings, st.integers(1, 99), st.integers(1, 2**30)),
    runtime=st.none() | RUNTIMES,
    unified_memory=st.booleans(),
    gds=st.none() | st.booleans(),
    host=st.none() | st.builds(HostProfile, *[RATES] * 6),
    shared=st.dictionaries(
        st.text(), st.builds(SharedProfile, RATES, st.dictionaries(st.sampled_from(LINKS), st.floats(0, 4)))
    ),
    power=st.none() | st.builds(PowerProfile, *[st.floats(0, 1e4)] * 7),
    price=st.none() | st.builds(PriceProfile, *[RATES] * 7),
)

Damage = Callable[[dict[str, Any]], object]


@settings(deadline=None)
@given(profile=PROFILES)
def test_a_profile_survives_its_file(tmp_path_factory: pytest.TempPathFactory, profile: HardwareProfile) -> None:
    path = tmp_path_factory.mktemp("profile") / "profile.json"
    write_profile(profile, path)
    assert read_profile(path) == profile
    assert [entry.name for entry in path.parent.iterdir()] == ["profile.json"]


def test_the_file_is_private_and_replaces_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    write_profile(DEFAULT, path)
    write_profile(replace(DEFAULT, name="newer"), path)
    assert read_profile(path).name == "newer"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda value: value.pop("flops"), "key 'flops' is missing"),
        (lambda value: value.update(colour="red"), "unknown key 'colour'"),
        (lambda value: value["links"].pop("nvme->device"), "'nvme->device' is missing"),
        (lambda value: value["links"]["host->device"].pop("latency_s"), "links.host->device: key 'latency_s'"),
        (lambda value: value["links"]["host->device"].update(speed=1), "links.host->device: unknown key 'speed'"),
        (lambda value: value["links"].update({"moon->device": {}}), "links.moon->device: not a link"),
        (lambda value: value["links"]["device->host"].update(read_bytes_per_s=0), "device->host.read_bytes_per_s"),
        (lambda value: value["links"]["device->host"].update(by_size={"64KiB": 1}), "by_size: key '64KiB'"),
        (lambda value: value.update(memory_bytes_per_s="fast"), "memory_bytes_per_s: 'fast'"),
        (lambda value: value.update(memory_bytes_per_s=True), "memory_bytes_per_s: True"),
        (lambda value: value.update(memory_bytes_per_s=10**400), "memory_bytes_per_s: 1000"),
        (lambda value: value.update(name=3), "name: 3 is not a text"),
        (lambda value: value.update(flops={}), "flops: no dtype"),
        (lambda value: value.update(kernels={"int8": "few"}), "kernels.int8: 'few'"),
        (lambda value: value.update(links=[]), "links: [] is not an object"),
        (lambda value: value["flops"].update(float32=float("nan")), "flops.float32: nan"),
        (lambda value: value.update(unified_memory=1), "unified_memory: 1 is neither true nor false"),
        (lambda value: value.update(gds="yes"), "gds: 'yes' is neither true nor false"),
        (lambda value: value.update(host={"memory_bytes_per_s": 1}), "host: key 'copy_bytes_per_s' is missing"),
        (lambda value: value.update(shared={"root": {"bytes_per_s": 0}}), "shared.root.bytes_per_s: 0 is not a rate"),
        (
            lambda value: value.update(shared={"root": {"bytes_per_s": 1, "links": {"a": 1}}}),
            "root.links.a: not a link",
        ),
        (lambda value: value.update(power={"device_idle_watts": 1}), "power: unknown key 'device_idle_watts'"),
    ],
)
def test_a_damaged_file_is_refused_by_file_and_key(tmp_path: Path, damage: Damage, named: str) -> None:
    path = tmp_path / "profile.json"
    write_profile(DEFAULT, path)
    value = json.loads(path.read_text())
    damage(value)
    path.write_text(json.dumps(value))
    with pytest.raises(InvalidOptionError) as caught:
        read_profile(path)
    message = str(caught.value)
    assert str(path) in message
    assert named in message
    assert "\n" not in message


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_what_is_not_an_object_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(content)
    with pytest.raises(InvalidOptionError, match=r"profile\.json"):
        read_profile(path)


def test_a_file_from_before_the_later_numbers(tmp_path: Path) -> None:
    write_profile(DEFAULT, tmp_path / "p.json")
    value = json.loads((tmp_path / "p.json").read_text())
    since = (
        "kernels",
        "kvikio",
        "drive",
        "runtime",
        "unified_memory",
        "gds",
        "host",
        "shared",
        "power",
        "price",
        "sources",
    )
    for key in (*since, "memory_nbytes"):
        del value[key]
    (tmp_path / "p.json").write_text(json.dumps(value))
    assert read_profile(tmp_path / "p.json") == DEFAULT


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match=r"nowhere\.json"):
        read_profile(tmp_path / "nowhere.json")


def test_a_link_is_read_in_its_own_direction() -> None:
    """The same pair of tiers has a link each way; towards the device the far tier is read, away from it written."""
    links = dict.fromkeys(LINKS, LinkProfile(read_bytes_per_s=7.0, write_bytes_per_s=3.0, latency_s=0.0))
    profile = replace(DEFAULT, links=links)
    assert profile.bytes_per_s("nvme->device") == 7.0
    assert profile.bytes_per_s("device->nvme") == 3.0


def test_what_lies_between_two_sizes_takes_as_long_as_lies_between_them() -> None:
    link = LinkProfile(9.0, 9.0, 0.0, by_size=((4096, 1.0), (65536, 2.0), (1048576, 4.0)))
    profile = replace(DEFAULT, links={**DEFAULT.links, "nvme->device": link})
    rates = [profile.bytes_per_s("nvme->device", nbytes) for nbytes in (1, 4096, 65536, 2**30)]
    assert rates == [1.0, 1.0, 2.0, 4.0]
    middle = (4096 + 65536) // 2
    assert middle / profile.bytes_per_s("nvme->device", middle) == pytest.approx((4096 + 32768) / 2)
    assert profile.bytes_per_s("nvme->device", 65535) == pytest.approx(2.0, rel=1e-4), "no step below a size"
    assert link_s(link, middle, is_read=True) == pytest.approx((4096 + 32768) / 2), "as replays have it"
    assert profile.bytes_per_s("nvme->device") == 9.0


def test_an_unmeasured_dtype_is_as_slow_as_the_slowest() -> None:
    assert DEFAULT.flops_per_s("float8_e4m3fn") == min(DEFAULT.flops.values())
    assert DEFAULT.flops_per_s("float32") == DEFAULT.flops["float32"]


def test_the_default_says_that_it_was_not_measured() -> None:
    assert "not measured" in DEFAULT.source
    assert set(LINKS) <= set(DEFAULT.links)
