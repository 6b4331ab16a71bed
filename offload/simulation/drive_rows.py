"""Rows of a scenario with computing drives: speed, bytes over each link, energy; alone, or every combination."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from offload.commands.output import json_text
from offload.config_file import read_config_file
from offload.simulation.axes import axes_of, combinations, refuse_axes
from offload.simulation.drive_scenario import DriveCase, read_cases
from offload.simulation.drive_sweep import DRIVE_SWEPT, fingerprint
from offload.simulation.facts import simulate_command
from offload.simulation.scenario_file import find_scenario
from offload.whole_file import write_whole
from simulators.serving.moved import serving_energy_j
from tiers.errors import BudgetError, InvalidOptionError

Row = dict[str, Any]
Progress = Callable[[int, int], None]


def simulate_drives(
    path: Path, progress: Progress, *, is_sweep: bool = False, out: Path | None = None
) -> dict[str, Any]:
    """The answer. Raises as ``read_cases``, and InvalidOptionError for a list without ``is_sweep``.

    What ``out`` holds of the same cells is not computed again; it is written also where this ends in an exception.
    """
    file = find_scenario(path)
    settings = read_config_file(file)
    axes = axes_of(settings, file, DRIVE_SWEPT)
    if not is_sweep:
        refuse_axes(axes, file)
    cases = [case for one in combinations(settings, axes) for case in read_cases(one, file)]
    # Dense attention is the same at every compression.
    prints = {fingerprint(case): case for case in cases}
    rows = _kept_rows(out, prints, file) if out else {}
    facts = {
        "scenario": str(path),
        "command": simulate_command(path, is_sweep=is_sweep),
        **{key: settings[key] for key in ("hardware", "model", "workload", "drive")},
        "seed": 0,
        **({"axes": dict(axes), "cells": len(prints)} if is_sweep else {}),
    }

    def answer() -> dict[str, Any]:
        return {**facts, "rows": [rows[key] for key in prints if key in rows]}

    try:
        for key, case in prints.items():
            if key not in rows:
                progress(len(rows), len(prints))
                rows[key] = {**drive_row(case), "fingerprint": key}
    finally:
        if out is not None and rows:
            write_whole(out, json_text(answer()))
    progress(len(rows), len(prints))
    return answer()


def drive_row(case: DriveCase) -> Row:
    """Figures of a case; None of all where the keys and values fit nowhere, with ``note`` to say so."""
    unknown = dict.fromkeys(("hit_ratio", "belady_gap"))
    try:
        time = case.system.time(case.workload, case.host)
    except BudgetError as error:
        return {**case.head, **dict.fromkeys(_FIGURES), **unknown, "links": {}, "note": str(error)}
    moved = case.system.moved(time, case.host)
    elapsed_s = time.prefill_s + time.decode_s
    power = case.host.profile.power
    joules = None if power is None else serving_energy_j(power, time, moved, case.engine_w)
    tokens = case.workload.batch * case.workload.new_tokens
    figures = (
        time.tokens_per_s,
        time.prefill_s,
        time.decode_s / case.workload.new_tokens,
        time.kv_share,
        max(0.0, elapsed_s - moved.compute_s),
        round(sum(moved.links.values())),
        round(moved.flash_read_nbytes),
        round(moved.flash_written_nbytes),
        None if joules is None else sum(joules.values()) / tokens,
        elapsed_s,
    )
    return {
        **case.head,
        **dict(zip(_FIGURES, figures, strict=True)),
        **unknown,
        "links": {name: round(nbytes) for name, nbytes in moved.links.items()},
        "energy_j": joules,
    }


_FIGURES = (
    *("tokens_per_s", "ttft_s", "step_s", "kv_share", "stall_s", "bytes", "flash_read_bytes", "flash_written_bytes"),
    *("energy_j_per_token", "elapsed_s"),
)


def _kept_rows(out: Path, prints: Mapping[str, object], path: Path) -> dict[str, Row]:
    """By fingerprint, the rows that ``out`` holds; InvalidOptionError where it holds those of other cells."""
    if not out.exists():
        return {}
    try:
        kept: dict[str, Row] = {row["fingerprint"]: row for row in json.loads(out.read_text(encoding="utf-8"))["rows"]}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        raise InvalidOptionError(f"--out: {out} is no file of a sweep's results; name another file") from None
    others = kept.keys() - prints.keys()
    if others:
        raise InvalidOptionError(f"--out: {out} holds {len(others)} cells that {path} does not have; name another file")
    return kept
