"""A cell: one policy in one setting, and what its row depends on."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefetch.third_party import is_third_party
from simulators.kv_serving import Arrivals

RunCell = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""From the head of a cell to its figures. Raises UsageError where it cannot run as asked."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One policy in one setting; ``head`` is how its row begins."""

    settings: Mapping[str, Any]
    """Those of a scenario without lists."""
    head: Mapping[str, Any]
    """``hardware`` and ``model`` as the scenario names them, ``tiers`` (bytes), ``policy``, and what else is said."""
    fingerprint: str
    """Of everything that the row depends on: settings, profile, model, trace, and the source of the policy."""

    @property
    def key(self) -> str:
        """What tells this cell from the others."""
        return cell_key(self.head)

    @property
    def others(self) -> tuple[str, ...]:
        """Classes of other people that decide in it, each named ``module:Class``."""
        named = (self.head.get("eviction", self.head["policy"]), self.head.get("predictor"))
        return tuple(name for name in named if name and is_third_party(name))

    def row(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        """The row of this cell from what its run gave."""
        return {**self.head, **figures, "fingerprint": self.fingerprint}

    def __str__(self) -> str:
        told = {**self.head, "tiers": " + ".join(f"{name} {size:,}" for name, size in self.head["tiers"].items())}
        return ", ".join(f"{key} {value}" for key, value in told.items())


def cell_key(row: Mapping[str, Any]) -> str:
    """The same of a cell's head and of its row."""
    row = {"arrivals": Arrivals.CLOSED.value, "speed": 1.0, **row}  # which older files do not name
    told = [row[name] for name in ("hardware", "model", "tiers", "policy", "arrivals", "speed")]
    return json.dumps([*told, *(row.get(name) for name in _OPTIONAL)])


_OPTIONAL = ("gate", "batch", "storage", "host_memory", "price", "predictor")
"""What only some cells have."""


class FileDigests:
    """Of files, each read once."""

    def __init__(self) -> None:
        self._digests: dict[Path, str] = {}

    def of(self, path: Path) -> str:
        """SHA-256, in hexadecimal digits."""
        if path not in self._digests:
            self._digests[path] = hashlib.sha256(path.read_bytes()).hexdigest()
        return self._digests[path]


def digest(*values: object) -> str:
    """16 hexadecimal digits that differ where any of ``values`` does, which JSON can write."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
