"""A run in a process of its own, in a memory cgroup where that was asked for."""

import json
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from offload.bench.memory_limit import MemoryLimit
from tiers.errors import WorldError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True, slots=True)
class Ran:
    """``answer`` is the JSON object that the process printed last; ``peak_nbytes`` what its cgroup had at most."""

    answer: dict[str, Any]
    is_limited: bool
    peak_nbytes: int | None


def run_child(who: str, module: str, spec: "DataclassInstance", limit: int | None, *, timeout_s: float) -> Ran:
    """``python -m module SPEC``; raises WorldError with what it said last, subprocess.TimeoutExpired."""
    with MemoryLimit.of(limit) as group:
        ran = group.run([sys.executable, "-m", module, json.dumps(asdict(spec))], timeout_s=timeout_s)
        if ran.returncode != 0:
            last = (ran.stderr.strip().splitlines() or ["killed: out of memory?"])[-1]
            raise WorldError(f"{who}: {last}")
        return Ran(json.loads(ran.stdout.splitlines()[-1]), group.is_enforced, group.peak_nbytes())
