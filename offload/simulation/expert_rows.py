"""Rows of a scenario of experts: every policy with every predictor, and two bounds; alone, or every combination."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import offload
from offload.commands.output import json_text
from offload.config_file import read_config_file
from offload.simulation.axes import axes_of, combinations, refuse_axes
from offload.simulation.cell import digest
from offload.simulation.drive_rows import kept_rows
from offload.simulation.expert_scenario import EXPERT_SWEPT, ExpertCase, ExpertCases
from offload.simulation.facts import simulate_command
from offload.simulation.scenario_file import find_scenario
from offload.simulation.sources import sources_of
from offload.simulation.values import mapping
from offload.whole_file import write_whole
from prefetch.third_party import find_predictor, is_third_party
from simulators.expert_experiment import BELADY, PERFECT, ExpertExperiment
from simulators.expert_trace import ExpertTrace
from tiers.eviction.registry import find_policy
from tiers.eviction.third_party import classes_of

Row = dict[str, Any]
Progress = Callable[[int, int], None]
_BOUNDS = (BELADY, PERFECT)


@dataclass(frozen=True, slots=True)
class _Cell:
    """One row to come. ``policy`` is one of ``_BOUNDS`` or an eviction policy."""

    case: ExpertCase
    policy: str
    predictor: str

    @property
    def head(self) -> Row:
        """How the row begins; ``policy`` is what it is called among the others of its setting."""
        is_bound = self.policy in _BOUNDS
        label = self.policy if self.predictor == "none" else f"{self.policy} + {Path(self.predictor).name}"
        eviction = None if is_bound else self.policy
        return {**self.case.head, "policy": label, "eviction": eviction, "predictor": self.predictor}


def simulate_experts(
    path: Path, progress: Progress, *, is_sweep: bool = False, out: Path | None = None
) -> dict[str, Any]:
    """The answer. Raises as ``ExpertCases`` and ``ExpertExperiment``, and InvalidOptionError for a list without
    ``is_sweep``; PolicyError for somebody else's policy or predictor that does wrong.

    What ``out`` holds of the same cells is not computed again; it is written also where this ends in an exception.
    """
    file = find_scenario(path)
    settings = read_config_file(file)
    axes = axes_of(settings, file, EXPERT_SWEPT)
    if not is_sweep:
        refuse_axes(axes, file)
    reader = ExpertCases(file)
    cells = [cell for one in combinations(settings, axes) for cell in _cells(reader.read(one))]
    traces: dict[int, str] = {}
    prints = {_fingerprint(cell, traces): cell for cell in cells}
    rows = kept_rows(out, prints, file) if out else {}
    experts = mapping("experts", settings["experts"])
    facts = {
        "scenario": str(path),
        "command": simulate_command(path, is_sweep=is_sweep),
        **{key: settings[key] for key in ("hardware", "model", "tiers", "experts")},
        "seed": None if "trace" in experts else experts.get("seed", 0),
        **({"axes": dict(axes), "cells": len(prints)} if is_sweep else {}),
    }

    def answer() -> dict[str, Any]:
        return {**facts, "rows": [rows[key] for key in prints if key in rows]}

    made: tuple[ExpertCase, ExpertExperiment] | None = None
    try:
        for key, cell in prints.items():
            if key in rows:
                continue
            progress(len(rows), len(prints))
            if made is None or made[0] is not cell.case:
                made = cell.case, ExpertExperiment(cell.case.setting)
            rows[key] = {**cell.head, **_figures(cell, made[1]), "fingerprint": key}
    finally:
        if out is not None and rows:
            write_whole(out, json_text(answer()))
    progress(len(rows), len(prints))
    return answer()


def _cells(case: ExpertCase) -> Iterator[_Cell]:
    for policy in case.policies:
        for predictor in case.predictors:
            yield _Cell(case, policy, predictor)
    for bound in _BOUNDS:
        yield _Cell(case, bound, "none")


def _figures(cell: _Cell, experiment: ExpertExperiment) -> Row:
    if cell.policy == BELADY:
        return experiment.belady()
    if cell.policy == PERFECT:
        return experiment.perfect()
    return experiment.row(cell.policy, cell.case.make_predictor(cell.predictor))


def _fingerprint(cell: _Cell, traces: dict[int, str]) -> str:
    """Of everything that the row depends on, but the code of this version."""
    setting = cell.case.setting
    if id(setting.trace) not in traces:
        traces[id(setting.trace)] = _trace_digest(setting.trace)
    inputs = [repr(setting.profile), repr(setting.shape), repr(setting.price), traces[id(setting.trace)]]
    return digest(offload.__version__, cell.head, inputs, [_digest_of(file) for file in _sources(cell)])


def _sources(cell: _Cell) -> list[Path]:
    """Files of somebody else's classes, of what those inherit from and import, and that of a trained predictor."""
    classes: tuple[type, ...] = ()
    if ":" in cell.policy:
        classes += classes_of(find_policy(cell.policy))
    if is_third_party(cell.predictor):
        classes += find_predictor(cell.predictor).__mro__
    trained = [Path(cell.predictor)] if Path(cell.predictor).is_file() else []
    return [*sources_of(classes), *trained]


def _trace_digest(trace: ExpertTrace) -> str:
    routing = (trace.layers, trace.tokens, trace.requests, trace.passes, trace.experts, trace.weights)
    arrays = (*routing, trace.gate_inputs, trace.gates)
    return digest(trace.model, *(hashlib.sha256(array.tobytes()).hexdigest() for array in arrays))


def _digest_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
