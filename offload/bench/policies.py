"""How fast the bookkeeping is: policies alone, the manager that ships on a whole trace, its bytes, and the start."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offload.bench.bookkeeping import Replay, time_policy
from offload.bench.header import header
from offload.bench.ticker import Progress, ticker
from tiers.errors import WorldError
from tiers.eviction.per_layer import PerLayerPolicy
from tiers.eviction.registry import POLICIES
from tiers.eviction.scored import ScoredPolicy

Row = dict[str, Any]

SAMPLE = Path("mooncake_conversation")
"""The trace that ships: the first 3,000 requests of Mooncake's."""
WHOLE = 288_500
"""References of all of that trace, for which the times of replays are aimed at."""
LEAST_RATES = {"lru": 1e6, "s3fifo": 1e6, "arc": 1e6}
"""Accesses a second."""
MOST_SECONDS = {"lru": 1.5, "arc": 3.0, "s3fifo": 3.0}
MOST_NBYTES = 300.0
MOST_START_S = 1.0


def kv_policies() -> list[str]:
    """The registered policies that need neither layers nor forecasts, each by the first of its names."""
    names: dict[type, str] = {}
    for name, kind in POLICIES.items():
        if not issubclass(kind, ScoredPolicy | PerLayerPolicy):
            names.setdefault(kind, name)
    return list(names.values())


@dataclass(frozen=True, slots=True)
class Sizes:
    """``slots`` of a policy alone, those of the levels of a replay, and how often each is timed: the best counts."""

    slots: int = 16_384
    levels: dict[str, int] = field(default_factory=lambda: {"device": 640, "host": 3_200, "nvme": 16_384})
    repeats: int = 3


def bench_policies(
    trace: Path = SAMPLE, *, sizes: Sizes | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Rows of four kinds, each of one thread, with ``ours``, and ``aim`` where there is one.

    Accesses a second of policies alone; seconds of replays of ``trace`` through the manager, with what an 8B model
    costs on an A100; the bytes that policies and manager have for a block; seconds of ``offload simulate --help``.
    ``ratio_to_aim`` is at least 1 where the aim is met. The time of a replay has one where the trace has as many
    references as Mooncake's. Raises TraceError, BudgetError for a prompt that the device does not hold, and WorldError
    where the command fails.
    """
    sizes = sizes or Sizes()
    replay = Replay.read(trace, sizes.levels)
    references = replay.references
    tick = ticker(progress, len(kv_policies()) + 2 * len(MOST_SECONDS) + 1)
    rows = []
    for row in _rows(replay, references, sizes):
        rows.append(row)
        tick()
    return header(seed=None) | {
        "trace": str(trace),
        "requests": len(replay.requests),
        "references": len(references),
        "slots": sizes.slots,
        **{f"{name}_slots": n for name, n in sizes.levels.items()},
        "rows": rows,
    }


def _rows(replay: Replay, references: list[int], sizes: Sizes) -> Iterator[Row]:
    for name in kv_policies():
        runs = [time_policy(name, sizes.slots, references) for _ in range(sizes.repeats)]
        seconds, hits = min(runs)
        rate, aim = len(references) / seconds, LEAST_RATES.get(name)
        ratio = None if aim is None else rate / aim
        yield _row(f"{name} alone", "accesses/s", rate, aim, ratio) | {"hit_ratio": hits / len(references)}
    for name, most in MOST_SECONDS.items():
        timed = [replay.time(name) for _ in range(sizes.repeats)]
        row = _less(f"{name}, a replay", "s", min(s for s, _ in timed), most if len(references) == WHOLE else None)
        yield row | {"hit_ratio": timed[0][1].hit_ratio}
    for name in MOST_SECONDS:
        nbytes, of_policies = replay.nbytes_per_block(name)
        row = _less(f"{name}, held for a block", "bytes", nbytes, MOST_NBYTES)
        yield row | {"note": f"{of_policies:.0f} of them are the policies'"}
    yield _less("offload simulate --help", "s", min(_start_s() for _ in range(sizes.repeats)), MOST_START_S)


def _less(name: str, unit: str, ours: float, aim: float | None) -> Row:
    """Of what should be at most the aim."""
    return _row(name, unit, ours, aim, None if aim is None else aim / ours)


def _row(name: str, unit: str, ours: float, aim: float | None, ratio: float | None) -> Row:
    return {"name": name, "unit": unit, "ours": ours, "aim": aim, "ratio_to_aim": ratio}


def _start_s() -> float:
    start_s = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, "-m", "offload.cli", "simulate", "--help"], capture_output=True, text=True, check=False
    )
    if ran.returncode != 0:
        raise WorldError(f"offload simulate --help: {(ran.stderr.strip().splitlines() or ['ended early'])[-1]}")
    return time.perf_counter() - start_s
