"""What the host has to do with bytes on their way, and what that costs in time."""

from dataclasses import replace

import pytest

from simulators.host_path import HOST_MEMORY, HostMemory, HostPaths, Storage
from simulators.link_costs import capacities_of, routes_of, staged_s
from simulators.machine_costs import HostProfile, SharedProfile
from simulators.profile import DEFAULT, DriveProfile, HardwareProfile, LinkProfile
from simulators.published import load_profile, published_names
from tiers.errors import InvalidOptionError

GB = 10**9
LEVELS = ("device", "host", "nvme")


def machine(*, drive: float = 7e9, link: float = 25e9, memory: float = 200e9, cores: float = 4.0) -> HardwareProfile:
    """Rates in bytes a second."""
    to_drive, to_host = LinkProfile(drive, drive, 0.0), LinkProfile(link, link, 0.0)
    return replace(
        DEFAULT,
        name="made up",
        device="cuda",
        links={"nvme->device": to_drive, "device->nvme": to_drive, "host->device": to_host, "device->host": to_host},
        drive=DriveProfile(45e-6, 1e6, 1e6),
        host=HostProfile(memory, 8e9, cores),
    )


def rate(
    profile: HardwareProfile, link: str, storage: Storage | None = None, memory: HostMemory | None = None
) -> float:
    """Bytes a second of a large transfer that has the machine for itself."""
    routes = routes_of(profile, LEVELS, paths=HostPaths(profile, storage, memory))
    return 100 * GB / routes[link].seconds(1, 100 * GB)


def test_one_drive_is_the_limit_of_both_paths() -> None:
    """As measured on single drives of the fourth generation: direct and through a buffer are alike."""
    direct, bounced = (rate(machine(), "nvme->device", storage) for storage in Storage)
    assert direct == pytest.approx(7e9, rel=0.01)
    assert bounced == pytest.approx(direct)


@pytest.mark.parametrize(
    ("profile", "direct", "bounced"),
    [
        # Eight drives: the device's port bounds both, as long as the host keeps up.
        (machine(drive=56e9), 25e9, 25e9),
        # A starved host: every byte is written to memory and read again.
        (machine(drive=56e9, memory=30e9), 25e9, 15e9),
        # Cores that copy.
        (machine(drive=56e9, cores=2.0), 25e9, 16e9),
    ],
)
def test_several_drives_and_a_starved_host(profile: HardwareProfile, direct: float, bounced: float) -> None:
    assert rate(profile, "nvme->device", Storage.GDS) == pytest.approx(direct, rel=0.01)
    assert rate(profile, "nvme->device", Storage.BOUNCE) == pytest.approx(bounced, rel=0.01)
    assert rate(profile, "nvme->device") == rate(profile, "nvme->device", Storage.BOUNCE)


def test_pageable_memory_is_copied_first() -> None:
    """8 GB/s of one core, then 25 of the link: the 6 GB/s that courses teach for PCIe 4.0."""
    assert rate(machine(), "host->device", memory=HostMemory.PINNED) == pytest.approx(25e9)
    assert rate(machine(), "host->device", memory=HostMemory.PAGEABLE) == pytest.approx(6.06e9, rel=0.01)
    starved = machine(drive=56e9, memory=30e9)
    assert rate(starved, "nvme->device", Storage.BOUNCE, HostMemory.PAGEABLE) == pytest.approx(10e9, rel=0.01)
    assert rate(machine(), "nvme->host", memory=HostMemory.PAGEABLE) == pytest.approx(7e9, rel=0.01)


def test_every_piece_of_a_staged_transfer_waits_for_the_link() -> None:
    link = LinkProfile(10.0, 5.0, 1.0)
    assert staged_s(link, 100, 20.0, 50.0, is_read=True) == 5.0 + 10.0 + 2 * 1.0
    assert staged_s(link, 100, 20.0, 50.0, is_read=False) == 5.0 + 20.0 + 2 * 1.0
    assert staged_s(link, 0, 20.0, 50.0, is_read=True) == 0.0


def test_direct_storage_spares_the_processor_and_the_memory() -> None:
    profile = machine()
    direct, bounced = (routes_of(profile, LEVELS, paths=HostPaths(profile, one))["nvme->device"] for one in Storage)
    assert direct.cpu_s(1, GB) == pytest.approx(0.16 * bounced.cpu_s(1, GB))
    assert bounced.cpu_s(1, GB) == pytest.approx(1.25e-6 * -(-GB // 524288))
    assert direct.loads == {}
    assert bounced.loads == {HOST_MEMORY: 2.0}


def test_one_memory_has_one_path() -> None:
    orin = load_profile("jetson_agx_orin")
    levels = ("device", "nvme")
    paths = [HostPaths(orin, storage, memory) for storage in (None, *Storage) for memory in (None, *HostMemory)]
    routes = [routes_of(orin, levels, paths=one)["nvme->device"] for one in paths]
    assert len({route.seconds(1, GB) for route in routes}) == 1
    assert all(route.loads == {HOST_MEMORY: 1.0} for route in routes)
    with pytest.raises(InvalidOptionError, match="the profile 'jetson_agx_orin' has no link device->host"):
        routes_of(orin, LEVELS)


@pytest.mark.parametrize("gds", [None, False, True])
def test_the_runtime_goes_where_the_machine_can(gds: bool | None) -> None:
    """Straight to the device where the profile says that a drive reaches it; and nobody is promised what it cannot."""
    profile = replace(machine(drive=56e9, memory=30e9), gds=gds)
    expected = rate(profile, "nvme->device", Storage.GDS if gds else Storage.BOUNCE)
    assert rate(profile, "nvme->device") == expected
    if gds is False:
        with pytest.raises(InvalidOptionError, match="no drive reaches the device of the profile 'made up'"):
            HostPaths(profile, Storage.GDS)
    else:
        assert rate(profile, "nvme->device", Storage.GDS) == pytest.approx(25e9, rel=0.01)


def test_profiles_that_ship_say_whether_a_drive_reaches_the_device() -> None:
    found = {name: load_profile(name) for name in published_names("profiles")}
    assert {name for name, one in found.items() if one.unified_memory} == {
        *("jetson_agx_orin", "jetson_orin_nano", "laptop_gen4")
    }
    assert {name for name, one in found.items() if one.gds} == {"a100", "a5000", "a6000", "h100", "t4"}
    for one in found.values():
        assert (one.gds is None) == one.unified_memory
        assert any("host" in link for link in one.links) != one.unified_memory


def test_what_several_links_pass_through_bounds_each_of_them() -> None:
    lanes = SharedProfile(10e9, {"host->device": 1.0, "nvme->device": 2.0})
    profile = replace(machine(), shared={"lanes": lanes})
    assert rate(profile, "host->device") == pytest.approx(10e9)
    assert rate(profile, "nvme->device") == pytest.approx(5e9, rel=0.01)
    assert capacities_of(profile) == {"lanes": 10e9, HOST_MEMORY: 200e9}


@pytest.mark.parametrize(
    ("storage", "memory", "message"),
    [
        (Storage.BOUNCE, None, "storage: bounce needs 'host' in the profile 'default'; add its numbers there"),
        (None, HostMemory.PAGEABLE, "host_memory: pageable needs 'host' in the profile 'default'"),
    ],
)
def test_numbers_that_are_asked_for_must_be_there(
    storage: Storage | None, memory: HostMemory | None, message: str
) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        HostPaths(DEFAULT, storage, memory)


def test_an_older_profile_is_as_it_was() -> None:
    for asked in (None, Storage.GDS):
        assert rate(DEFAULT, "nvme->device", asked) == pytest.approx(5e8, rel=0.01)
    assert routes_of(DEFAULT, LEVELS)["host->device"].loads == {}
    cut = replace(machine(), links={"nvme->device": DEFAULT.links["nvme->device"]})
    with pytest.raises(InvalidOptionError, match="the profile 'made up' has no link host->device; it has nvme->device"):
        HostPaths(cut, Storage.GDS).work("nvme->device")
