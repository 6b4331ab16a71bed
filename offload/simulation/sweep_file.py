"""The file of a sweep's results: the same object that ``--json`` prints, with the rows that there are so far."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offload.simulation.cell import cell_key
from offload.simulation.sweep import Sweep
from tiers.errors import InvalidOptionError

Rows = dict[int, Mapping[str, Any]]
"""By the number of the cell."""


def sweep_answer(sweep: Sweep, rows: Rows) -> dict[str, Any]:
    """``rows`` in the order of the cells, whichever was done first, and how many there will be."""
    return {
        **sweep.facts,
        "axes": dict(sweep.axes),
        "cells": len(sweep.cells),
        "rows": [rows[number] for number in sorted(rows)],
    }


def finished_rows(path: Path, sweep: Sweep) -> Rows:
    """Those rows of an earlier run that still hold; none if there is no file.

    A row holds as long as nothing that it depends on has changed. InvalidOptionError where the file is of another
    sweep, whose rows would be lost.
    """
    if not path.exists():
        return {}
    try:
        rows = {cell_key(row): row for row in json.loads(path.read_text(encoding="utf-8"))["rows"]}
        prints = {key: row["fingerprint"] for key, row in rows.items()}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise InvalidOptionError(f"--out: {path} is no file of a sweep's results; name another file") from None
    numbers = {cell.key: number for number, cell in enumerate(sweep.cells)}
    others = rows.keys() - numbers.keys()
    if others:
        message = f"--out: {path} holds {len(others)} cells that {sweep.path} does not have; name another file"
        raise InvalidOptionError(message)
    return {numbers[key]: rows[key] for key in rows if prints[key] == sweep.cells[numbers[key]].fingerprint}
