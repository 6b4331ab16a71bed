"""What a search is after: a figure to make large or small, and limits on others."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from offload.simulation.kinds import Setting
from offload.simulation.values import suggest
from offload.sizes import parse_size
from tiers.errors import InvalidOptionError

_GIB = 2**30
_MEMORY, _PRICE = "memory_bytes", "memory_price"
_MORE_IS_BETTER = ("tokens_per_", "requests_per_", "hit_ratio", "efficiency", "throughput", "goodput")

Figures = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Goal:
    """``limits`` are the least and the most that figures may be, ``prices`` those of a GiB of each tier."""

    objective: str
    is_maximized: bool
    limits: Mapping[str, tuple[float, float]]
    prices: Mapping[str, float]

    def forbids(self, tiers: Mapping[str, int]) -> bool:
        """Whether that much memory is beyond a limit, whatever it is worth."""
        figures = self.figures({"tiers": tiers})
        return any(excess > 0 for name, excess in self.excess(figures).items() if name in figures)

    def figures(self, row: Mapping[str, Any]) -> Figures:
        """All numbers of a row, and what its memory is: ``tiers.host``, ..., ``memory_bytes``, ``memory_price``."""
        found = {key: value for key, value in row.items() if type(value) in (int, float)}
        tiers: Mapping[str, int] = row["tiers"]
        found |= {f"tiers.{level}": nbytes for level, nbytes in tiers.items()} | {_MEMORY: sum(tiers.values())}
        if self.prices:
            found[_PRICE] = sum(nbytes / _GIB * self.prices.get(level, 0) for level, nbytes in tiers.items())
        return found

    def value(self, figures: Figures) -> float:
        """Of the objective; not a number where there is none."""
        return figures.get(self.objective, math.nan)

    def can_judge(self, figures: Figures) -> bool:
        """Whether there is a number for the objective and for all that is limited."""
        return all(math.isfinite(figures.get(name, math.nan)) for name in (self.objective, *self.limits))

    def excess(self, figures: Figures) -> dict[str, float]:
        """By how large a share each limited figure is beyond its limit; 0 or less where it holds."""
        return {
            name: max(_over(figures[name], most), _over(-figures[name], -least))
            for name, (least, most) in self.limits.items()
            if name in figures
        }

    def rank(self, figures: Figures) -> tuple[float, float, float]:
        """Less is better: within limits first, then by the objective, of equal ones that with less memory."""
        beyond = sum(max(0.0, excess) for excess in self.excess(figures).values())
        value = self.value(figures)
        return beyond, -value if self.is_maximized else value, figures[_MEMORY]


def read_goal(settings: Mapping[str, Any], setting: Setting, objective: str, *, maximize: bool | None) -> Goal:
    """The goal that keys ``limits`` and ``prices`` and the command line describe.

    ``setting`` is one of those that are searched. ``maximize`` is None where the name of the figure tells. Raises
    InvalidOptionError: for a figure that no row has, with the nearest that rows have.
    """
    prices = _prices(settings.get("prices", {}), setting.tiers)
    unlimited = Goal(objective, maximize if maximize is not None else _is_better_more(objective), {}, prices)
    known = unlimited.figures(setting.example())
    if objective not in known:
        raise InvalidOptionError(f"--objective: '{objective}' is no figure of a row; {suggest(objective, known)}")
    return replace(unlimited, limits=_limits(settings.get("limits", {}), known))


def _is_better_more(name: str) -> bool:
    return any(part in name for part in _MORE_IS_BETTER)


def _limits(given: object, known: Collection[str]) -> dict[str, tuple[float, float]]:
    if not isinstance(given, Mapping):
        raise InvalidOptionError(f"limits: {given!r} is no mapping; write one 'figure: number' a line below it")
    limits = {}
    for name, value in given.items():
        if name not in known:
            raise InvalidOptionError(f"limits: '{name}' is no figure of a row; {suggest(str(name), known)}")
        # A number alone is the worst that will do.
        bounds = value if isinstance(value, Mapping) else {"min" if _is_better_more(name) else "max": value}
        read = {key: _bound(f"limits.{name}", name, one) for key, one in bounds.items()}
        least, most = read.pop("min", -math.inf), read.pop("max", math.inf)
        if read or not bounds or least > most:
            raise InvalidOptionError(f"limits.{name}: {value!r} is no limit; write a number, or {{min: 1, max: 2}}")
        limits[name] = (least, most)
    return limits


def _bound(where: str, name: str, value: object) -> float:
    if name == _MEMORY or name.startswith("tiers."):
        try:
            return parse_size(str(value))
        except InvalidOptionError as error:
            raise InvalidOptionError(f"{where}: {error}") from None
    if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]  # it is a number
        raise InvalidOptionError(f"{where}: {value!r} is no number")
    return float(value)  # type: ignore[arg-type]  # it is a number


def _prices(given: object, tiers: Collection[str]) -> dict[str, float]:
    if not isinstance(given, Mapping):
        raise InvalidOptionError(f"prices: {given!r} is no mapping; write the price of a GiB of each tier, host: 4")
    for name, value in given.items():
        if name not in tiers:
            raise InvalidOptionError(f"prices: '{name}' is none of the tiers; {suggest(str(name), tiers)}")
        if type(value) not in (int, float) or not 0 <= value < math.inf:
            raise InvalidOptionError(f"prices.{name}: {value!r} is no price of a GiB; write a number from 0 up")
    return {name: float(value) for name, value in given.items()}


def _over(value: float, limit: float) -> float:
    if math.isinf(limit):
        return -math.inf if limit > 0 else math.inf
    return (value - limit) / max(abs(limit), 1e-12)
