"""Energy and price, by hand."""

from dataclasses import replace

import pytest

from simulators.machine_costs import PowerProfile, PriceProfile
from simulators.modelled_link import LinkUse
from simulators.modelled_mover import Route
from simulators.profile import DEFAULT, HardwareProfile
from simulators.published import load_profile, published_names
from simulators.running_costs import PriceTerms, Usage, energy_j, price_usd, running_costs
from tiers.errors import InvalidOptionError

GIB = 2**30
YEAR_S = 365.25 * 24 * 3600
MACHINE: HardwareProfile = replace(
    DEFAULT,
    power=PowerProfile(10.0, 110.0, 50.0, 5.0, 1e-10, 1.0, 7.0),
    price=PriceProfile(1000.0, 500.0, 4.0, 0.1, 0.2, 2.0),
)
ROUTES = {
    "host->device": Route(lambda _blocks, _nbytes: 1.0, "host", {"host memory": 1.0}),
    "nvme->device": Route(lambda _b, _n: 1.0, "nvme", {"host memory": 2.0}, lambda _blocks, nbytes: nbytes / 1e9),
}
LINKS = {"host->device": LinkUse(10**10, 1.0, 10), "nvme->device": LinkUse(2 * 10**10, 4.0, 20)}
USAGE = Usage(elapsed_s=100.0, compute_s=30.0, links=LINKS, routes=ROUTES)


def test_energy_by_part() -> None:
    parts = energy_j(MACHINE, USAGE)
    assert parts == {
        "device": 10.0 * 100 + 100.0 * 30,
        "host": 50.0 * 100,
        "cores": 5.0 * 20,
        "dram": pytest.approx(1e-10 * (10**10 + 2 * 2 * 10**10)),
        "drive": 1.0 * 100 + 6.0 * 4,
    }
    without = energy_j(MACHINE, replace(USAGE, routes={"host->device": ROUTES["host->device"]}, links={}))
    assert without is not None
    assert "drive" not in without


def test_price_is_a_share_of_the_machine_and_electricity() -> None:
    tiers = {"device": 80 * GIB, "host": 100 * GIB, "nvme": 1000 * GIB}
    bought = 1000 + 500 + 400 + 100
    assert price_usd(MACHINE, tiers, 2 * YEAR_S, 3.6e6, PriceTerms()) == pytest.approx(bought + 0.2)
    dearer = PriceTerms(usd_per_kwh=1.0, years=1.0, utilisation=0.5)
    assert price_usd(MACHINE, tiers, YEAR_S, 3.6e6, dearer) == pytest.approx(2 * bought + 1.0)


def test_a_row() -> None:
    row = running_costs(MACHINE, {"device": GIB}, USAGE, 1000, PriceTerms())
    parts = energy_j(MACHINE, USAGE)
    assert parts is not None
    joules = sum(parts.values())
    assert row["energy_j_per_token"] == joules / 1000
    assert row["price_per_million_tokens"] == pytest.approx(1000 * (1500 * 100 / (2 * YEAR_S) + 0.2 * joules / 3.6e6))


@pytest.mark.parametrize("profile", [DEFAULT, replace(MACHINE, power=None)])
def test_who_does_not_know_says_nothing(profile: HardwareProfile) -> None:
    row = running_costs(profile, {"device": GIB}, USAGE, 1000, PriceTerms())
    assert row == dict.fromkeys(("energy_j_per_token", "price_per_million_tokens", "energy_j"))
    nothing = running_costs(MACHINE, {"device": GIB}, USAGE, 0, PriceTerms())
    assert nothing["energy_j_per_token"] is nothing["price_per_million_tokens"] is None


def test_years_without_end() -> None:
    with pytest.raises(InvalidOptionError, match=r"price\.years is 0\.0; it must be above 0"):
        replace(MACHINE.price or PriceProfile(1, 1, 1, 1, 1, 1), years=0.0)


@pytest.mark.parametrize("name", published_names("profiles"))
def test_published_profiles_have_a_source_for_every_number(name: str) -> None:
    profile = load_profile(name)
    assert profile.power is not None
    assert profile.price is not None
    assert profile.host is not None
    assert bool(profile.shared) != profile.unified_memory
    assert profile.power.device_idle_w < profile.power.device_active_w
    wanted = {"host.memory_bytes_per_s", "host.copy_bytes_per_s", "host.copy_cores", "host.request_cpu_s"}
    wanted |= {"power.device", "power.core_active_w", "power.dram_j_per_byte", "power.drive", "price"}
    assert wanted <= profile.sources.keys()
