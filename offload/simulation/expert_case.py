"""One setting of a scenario of experts, and how its rows come about."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from offload.experts.predictors import make_predictor
from offload.simulation.cell import RunCell
from prefetch.expert_predictor import ExpertPredictor
from prefetch.path import PathPredictor
from prefetch.path_file import PathFile
from prefetch.routing_path import RoutingPath
from simulators.expert_experiment import BELADY, ExpertExperiment
from simulators.expert_setting import ExpertSetting
from simulators.expert_trace import ExpertTrace
from simulators.expert_visits import keys_of
from simulators.model_costs import ModelShape
from simulators.profile import HardwareProfile
from simulators.routing_generator import generate_routing
from simulators.trace_statistics import layer_statistics

_SKEW = ("max_to_mean", "entropy", "overlap")
"""Figures of a trace's layers, of which a mean tells how much of it a cache can hold."""


@dataclass(frozen=True, slots=True)
class ExpertCase:
    """One setting, and the names of the policies and predictors of its rows. See Setting; a workload is the routing."""

    head: Mapping[str, object]
    """How its rows begin."""
    setting: ExpertSetting
    policies: tuple[str, ...]
    predictors: tuple[str, ...]
    trained: Mapping[str, PathFile]
    """What those of the predictors hold that are files."""

    @property
    def shape(self) -> ModelShape:
        return self.setting.shape

    @property
    def profile(self) -> HardwareProfile:
        return self.setting.profile

    @property
    def tiers(self) -> Mapping[str, int]:
        return self.setting.tiers

    def experiment(self, workload: ExpertTrace) -> RunCell:
        experiment = ExpertExperiment(replace(self.setting, trace=workload))

        def run(head: Mapping[str, Any]) -> Mapping[str, Any]:
            policy, predictor = head["eviction"], head["predictor"]
            if policy is None:
                return experiment.belady() if head["policy"] == BELADY else experiment.perfect()
            return experiment.row(policy, self._make_predictor(predictor, workload))

        return run

    def example(self) -> Mapping[str, Any]:
        shape, costs = self.shape, self.setting.costs
        trace = generate_routing([(1, 2)], costs.expert_layers, shape.experts, shape.experts_per_token)
        room = dict.fromkeys(self.tiers, shape.experts_per_token * costs.expert_nbytes)
        roomy = replace(self.profile, memory_nbytes=None)  # whether the weights fit is not asked here
        small = replace(self.setting, trace=trace, tiers=room, profile=roomy)
        return {**ExpertExperiment(small).row("lru"), "tiers": room}

    def workload_figures(self, workload: ExpertTrace) -> Mapping[str, float]:
        # Without gates, which only foresee.
        layers = layer_statistics(replace(workload, gates=workload.gates[:, :, :0]))
        tokens, _, top_k = workload.experts.shape
        skew = {name: np.array([getattr(one, name) for one in layers]) for name in _SKEW}
        return {
            "tokens": float(tokens),
            "requests": float(len(np.unique(workload.requests))),
            "layers": float(len(layers)),
            "experts": float(workload.num_experts),
            "experts_per_token": float(top_k),
            **{name: float(np.mean(values)) for name, values in skew.items() if np.isfinite(values).all()},
        }

    def run_settings(self) -> Mapping[str, Any]:
        device = self.tiers["device"] + self.setting.costs.resident_nbytes
        host = {"host_memory": self.tiers["host"]} if "host" in self.tiers else {}
        return {"device_memory": device, **host, "policy": self.policies[0], "predictor": self.predictors[0]}

    def _make_predictor(self, name: str, trace: ExpertTrace) -> ExpertPredictor | None:
        """A new one, which knows of the trace what it would know of a run. Raises as ``make_predictor`` does."""
        keys, top_k = keys_of(trace), trace.experts.shape[2]
        if name in self.trained:
            return PathPredictor(keys, RoutingPath(self.trained[name]).begin)
        gates = dict(zip(trace.layers.tolist(), trace.gates, strict=True)) if trace.gates.size else {}
        return make_predictor(name, keys, top_k, lambda: gates, lambda: trace.model)
