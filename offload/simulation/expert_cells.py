"""Cells of a scenario of experts: every policy with every predictor, and two bounds."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import offload
from offload.simulation.cell import Cell, FileDigests, digest
from offload.simulation.expert_case import ExpertCase
from offload.simulation.expert_scenario import EXPERT_SWEPT, ExpertCases
from offload.simulation.sources import sources_of
from offload.simulation.values import near
from prefetch.third_party import find_predictor, is_third_party
from simulators.expert_experiment import BELADY, PERFECT
from simulators.expert_trace import ExpertTrace
from tiers.block import BlockKey, ExpertKey
from tiers.eviction.registry import find_policy
from tiers.eviction.third_party import classes_of

_BOUNDS = (BELADY, PERFECT)


class ExpertCells:
    """See CellMaker. A workload is the routing of the model of a setting."""

    swept = EXPERT_SWEPT
    deciders = ("policy", "predictor")
    keys: type[BlockKey] = ExpertKey

    def __init__(self, path: Path) -> None:
        self.path = path
        self._cases = ExpertCases(path)
        self._files = FileDigests()
        self._traces: dict[int, str] = {}

    def cells(self, settings: Mapping[str, Any], *, with_bounds: bool = False) -> list[Cell]:
        """See CellMaker."""
        case = self._cases.read(settings)
        return [Cell(settings, head, self._fingerprint(case, head)) for head in _heads(case, with_bounds=with_bounds)]

    def in_bytes(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """See CellMaker. A share is of all experts of the model."""
        return self._cases.in_bytes(settings)

    def setting(self, settings: Mapping[str, Any]) -> ExpertCase:
        """See CellMaker."""
        case = self._cases.read(settings)
        return replace(case, setting=replace(case.setting, trace=_without_tokens(case.setting.trace)))

    def workload(self, settings: Mapping[str, Any]) -> ExpertTrace:
        """The routing, recorded or made up."""
        return self._cases.read(settings).setting.trace

    def workload_print(self, settings: Mapping[str, Any]) -> list[str]:
        """See CellMaker."""
        experts = settings["experts"]
        trace = Path(near(self.path.parent, experts["trace"])) if "trace" in experts else None
        return [json.dumps(experts), self._files.of(trace) if trace else ""]

    def _fingerprint(self, case: ExpertCase, head: Mapping[str, Any]) -> str:
        """Of everything that the row depends on, but the code of this version."""
        setting = case.setting
        trace = id(setting.trace)  # which ``ExpertCases`` keeps
        if trace not in self._traces:
            self._traces[trace] = _trace_digest(setting.trace)
        inputs = [repr(setting.profile), repr(setting.shape), repr(setting.price), self._traces[trace]]
        return digest(offload.__version__, head, inputs, [self._files.of(file) for file in _sources(head)])


def _heads(case: ExpertCase, *, with_bounds: bool) -> Iterator[dict[str, Any]]:
    """``policy`` is what a row is called among the others of its setting, ``eviction`` None of a bound."""
    for policy in case.policies:
        for predictor in case.predictors:
            label = policy if predictor == "none" else f"{policy} + {Path(predictor).name}"
            yield {**case.head, "policy": label, "eviction": policy, "predictor": predictor}
    for bound in _BOUNDS if with_bounds else ():
        yield {**case.head, "policy": bound, "eviction": None, "predictor": "none"}


def _sources(head: Mapping[str, Any]) -> list[Path]:
    """Files of somebody else's classes, of what those inherit from and import, and that of a trained predictor."""
    policy, predictor = head["eviction"], head["predictor"]
    classes: tuple[type, ...] = ()
    if policy and is_third_party(policy):
        classes += classes_of(find_policy(policy))
    if is_third_party(predictor):
        classes += find_predictor(predictor).__mro__
    trained = [Path(predictor)] if Path(predictor).is_file() else []
    return [*sources_of(classes), *trained]


def _without_tokens(trace: ExpertTrace) -> ExpertTrace:
    """The same model, and nothing that it was given."""
    names = ("tokens", "requests", "passes", "experts", "weights", "gate_inputs")
    return replace(trace, gates=trace.gates[:, :, :0], **{name: getattr(trace, name)[:0] for name in names})


def _trace_digest(trace: ExpertTrace) -> str:
    routing = (trace.layers, trace.tokens, trace.requests, trace.passes, trace.experts, trace.weights)
    arrays = (*routing, trace.gate_inputs, trace.gates)
    return digest(trace.model, *(hashlib.sha256(array.tobytes()).hexdigest() for array in arrays))
