"""What a run takes from the wall and from the purse, by the numbers of a machine."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from simulators.host_path import HOST_MEMORY
from simulators.modelled_link import LinkUse
from simulators.modelled_mover import Route
from simulators.profile import HardwareProfile

_GIB = 2**30
_S_PER_YEAR = 365.25 * 24 * 3600
_J_PER_KWH = 3.6e6


@dataclass(frozen=True, slots=True)
class PriceTerms:
    """What a scenario says of the price in place of the profile; None leaves it to that."""

    usd_per_kwh: float | None = None
    years: float | None = None
    utilisation: float | None = None

    @property
    def given(self) -> dict[str, float]:
        """Those that are not None."""
        terms = {"usd_per_kwh": self.usd_per_kwh, "years": self.years, "utilisation": self.utilisation}
        return {name: value for name, value in terms.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Usage:
    """What happened in ``elapsed_s``: for how long the device computed, what moved, and over which routes."""

    elapsed_s: float
    compute_s: float
    links: Mapping[str, LinkUse]
    routes: Mapping[str, Route]


def energy_j(profile: HardwareProfile, usage: Usage) -> dict[str, float] | None:
    """Joules by part: ``device``, ``host``, ``cores``, ``dram`` and, where there is a route to it, ``drive``.

    None where the profile does not know its power. Idle watts flow all the time; the device's active ones while it
    computes, the drive's while it moves bytes, a core's while it copies them or makes requests. What the host's memory
    takes for each byte comes on top of its share of the idle watts.
    """
    power = profile.power
    if power is None:
        return None
    moved = [(usage.routes[name], use) for name, use in usage.links.items()]
    parts = {
        "device": power.device_idle_w * usage.elapsed_s
        + (power.device_active_w - power.device_idle_w) * usage.compute_s,
        "host": power.host_idle_w * usage.elapsed_s,
        "cores": power.core_active_w * sum(route.cpu_s(use.num_blocks, use.nbytes) for route, use in moved),
        "dram": power.dram_j_per_byte * sum(route.loads.get(HOST_MEMORY, 0.0) * use.nbytes for route, use in moved),
    }
    if any(route.wire == "nvme" for route in usage.routes.values()):
        busy_s = min(usage.elapsed_s, sum(use.busy_s for route, use in moved if route.wire == "nvme"))
        parts["drive"] = power.drive_idle_w * usage.elapsed_s + (power.drive_active_w - power.drive_idle_w) * busy_s
    return parts


def price_usd(
    profile: HardwareProfile, tiers: Mapping[str, int], elapsed_s: float, joules: float, terms: PriceTerms
) -> float | None:
    """Dollars for a run: its share of the years for which the machine was bought, and the electricity.

    ``tiers`` are the bytes for blocks on each level: of host memory and of the drive these are bought, the device is
    bought whole. None where the profile does not know its prices.
    """
    if profile.price is None:
        return None
    price = replace(profile.price, **terms.given)
    bought = price.device_usd + price.host_usd
    bought += price.dram_usd_per_gib * tiers.get("host", 0) / _GIB
    bought += price.nvme_usd_per_gib * tiers.get("nvme", 0) / _GIB
    share = elapsed_s / (price.years * _S_PER_YEAR * price.utilisation)
    return bought * share + price.usd_per_kwh * joules / _J_PER_KWH


def running_costs(
    profile: HardwareProfile, tiers: Mapping[str, int], usage: Usage, tokens: int, terms: PriceTerms
) -> dict[str, object]:
    """Keys of a result row: ``energy_j_per_token``, ``price_per_million_tokens`` and ``energy_j`` by part.

    None where the profile lacks the numbers, or no token was generated.
    """
    parts = energy_j(profile, usage)
    joules = sum(parts.values()) if parts else 0.0
    dollars = price_usd(profile, tiers, usage.elapsed_s, joules, terms)
    if parts is None or not tokens:
        dollars = None
    return {
        "energy_j_per_token": joules / tokens if parts and tokens else None,
        "price_per_million_tokens": None if dollars is None else 1e6 * dollars / tokens,
        "energy_j": parts,
    }
