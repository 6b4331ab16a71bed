"""What the decode steps of a replay of experts come to, and its row of results."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from simulators.modelled_link import LinkUse
from simulators.modelled_mover import Route
from simulators.profile import HardwareProfile
from simulators.running_costs import PriceTerms, Usage, running_costs


@dataclass(slots=True)
class Totals:
    """Counters at one moment, or of the time between two."""

    elapsed_s: float = 0.0
    compute_s: float = 0.0
    stall_s: float = 0.0
    hits: int = 0
    """Uses of experts that were there, or on their way."""
    late_hits: int = 0
    """Of these, of experts that were on their way."""
    prefetch_hits: int = 0
    """Of these, of experts that came ahead of their use."""
    misses: int = 0
    wasted_nbytes: float = 0.0
    tokens: int = 0
    links: Mapping[str, LinkUse] = field(default_factory=dict)

    def __add__(self, other: "Totals") -> "Totals":
        return _combined(self, other, 1)


def totals_between(before: Totals, after: Totals) -> Totals:
    """What came to ``before`` until ``after``."""
    return _combined(after, before, -1)


def row_of(
    totals: Totals,
    profile: HardwareProfile,
    tiers: Mapping[str, int],
    routes: Mapping[str, Route],
    price: PriceTerms,
) -> dict[str, Any]:
    """The figures of a result row. ``tiers`` are the bytes that are paid for."""
    accesses = max(1, totals.hits + totals.misses)
    links = {name: use.nbytes for name, use in totals.links.items()}
    usage = Usage(totals.elapsed_s, totals.compute_s, totals.links, routes)
    return {
        "hit_ratio": totals.hits / accesses,
        "prefetched_ratio": totals.prefetch_hits / accesses,
        "late_ratio": totals.late_hits / accesses,
        "tokens_per_s": totals.tokens / totals.elapsed_s,
        "stall_s": totals.stall_s,
        "bytes": sum(links.values()),
        "wasted_bytes": round(totals.wasted_nbytes),
        "links": links,
        "elapsed_s": totals.elapsed_s,
        **running_costs(profile, tiers, usage, totals.tokens, price),
    }


def _combined(one: Totals, other: Totals, sign: int) -> Totals:
    numbers = {
        each.name: getattr(one, each.name) + sign * getattr(other, each.name)
        for each in fields(Totals)
        if each.name != "links"
    }
    names = dict.fromkeys([*one.links, *other.links])
    links = {name: _use(one.links.get(name), other.links.get(name), sign) for name in names}
    return Totals(**numbers, links=links)


def _use(one: LinkUse | None, other: LinkUse | None, sign: int) -> LinkUse:
    one, other = one or LinkUse(), other or LinkUse()
    return LinkUse(
        one.nbytes + sign * other.nbytes,
        one.busy_s + sign * other.busy_s,
        one.num_blocks + sign * other.num_blocks,
    )
