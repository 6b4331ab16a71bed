"""Who is faster than whom: the paper's statements at every batch size, and the order of all systems there."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from offload.bench.csd_claims import BATCHES, ratio
from offload.bench.csd_figures import SYSTEMS, CsdFigures
from offload.bench.csd_table import Row

Holds = Callable[[CsdFigures, int], bool]


@dataclass(frozen=True, slots=True)
class Statement:
    """What the text says of the batch sizes ``at``."""

    text: str
    at: tuple[int, ...]
    holds: Holds


def order_rows(figures: CsdFigures) -> Iterator[Row]:
    """For each batch size, how many of the paper's statements hold, and all systems from the fastest to the slowest."""
    for batch in BATCHES:
        said = [one for one in _statements(figures) if batch in one.at]
        wrong = [one.text for one in said if not one.holds(figures, batch)]
        verdict = "wrong: " + "; ".join(wrong) if wrong else "right"
        note = f"{verdict}; {_ranking(figures, batch)}"
        yield f"order at batch {batch}: statements that hold", "statements", len(said) - len(wrong), len(said), note


def _ranking(figures: CsdFigures, batch: int) -> str:
    rates = {system: figures.rate(system, batch) for system in SYSTEMS}
    ran = sorted((system for system in SYSTEMS if rates[system]), key=lambda system: -rates[system])
    told = " > ".join(f"{system} {rates[system]:.3g}" for system in ran)
    out = ", ".join(system for system in SYSTEMS if not rates[system])
    return f"{told} tokens/s" + (f"; out of memory: {out}" if out else "")


def _statements(figures: CsdFigures) -> list[Statement]:
    fits = tuple(batch for batch in BATCHES if figures.rate("FlexGen", batch))
    return [
        Statement("Recompute is fastest at small batches", (4, 8), _is_first("Recompute")),
        Statement("DeepSpeed beats FlexGen up to 16", (4, 8, 16), _beats("DeepSpeed", "FlexGen")),
        Statement("FlexGen beats DeepSpeed from 32", tuple(b for b in fits if b >= 32), _beats("FlexGen", "DeepSpeed")),
        Statement("InstA beats FlexGen", fits, _beats("InstA", "FlexGen")),
        Statement("SparF beats InstA", BATCHES, _beats("SparF", "InstA")),
        Statement("FlexGen-SparQ beats FlexGen", fits, _beats("FlexGen-SparQ", "FlexGen")),
        Statement("SparF beats FlexGen-SparQ", fits, _beats("SparF", "FlexGen-SparQ")),
        Statement("GDS is worth less than a fifth", fits, _are_near),
        Statement("SparF is fastest at the largest batch", (256,), _is_first("SparF")),
        Statement("two drives beat one", BATCHES, _two_beat_one),
    ]


def _beats(faster: str, slower: str) -> Holds:
    return lambda figures, batch: figures.rate(faster, batch) > figures.rate(slower, batch)


def _is_first(system: str) -> Holds:
    return lambda figures, batch: all(figures.rate(system, batch) >= figures.rate(other, batch) for other in SYSTEMS)


def _are_near(figures: CsdFigures, batch: int) -> bool:
    return abs(ratio(figures.rate("FlexGen-GDS", batch), figures.rate("FlexGen", batch)) - 1) < 0.2


def _two_beat_one(figures: CsdFigures, batch: int) -> bool:
    return figures.rate("InstA", batch, drives=2) > figures.rate("InstA", batch)
