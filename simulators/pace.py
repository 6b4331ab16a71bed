"""Who gets how much of what several transfers pass through at once."""

from collections.abc import Mapping, Sequence


def paces(rates: Sequence[Mapping[str, float]], capacities: Mapping[str, float]) -> list[float]:
    """The share of its own pace that each transfer keeps; from above 0 to 1.

    ``rates`` are what each would take of everything, in bytes a second. Where they want more of one thing than its
    capacity all of them are slowed down alike, and each by the worst of what it passes through: so no capacity is
    exceeded, and where one is slowed down by something else the others do not take up what it leaves.
    """
    wanted: dict[str, float] = {}
    for taken in rates:
        for name, rate in taken.items():
            wanted[name] = wanted.get(name, 0.0) + rate
    shares = {name: capacities[name] / rate for name, rate in wanted.items() if rate > 0.0 and rate > capacities[name]}
    if not shares:
        return [1.0] * len(rates)
    return [min((shares[name] for name in taken if name in shares), default=1.0) for taken in rates]
