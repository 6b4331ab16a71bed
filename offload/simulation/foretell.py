"""What a generation within a budget will take on a machine: the plan, then its replay in virtual time."""

from pathlib import Path

from offload.config import RunConfig
from offload.experts.predictors import make_predictor
from offload.plan import Workload
from offload.prospect import open_prospect, plan_for
from offload.simulation.drive_speed import measure_drives
from offload.simulation.generation import model_shape, placement_shape, work_shape
from simulators.expert_trace import ExpertTrace
from simulators.expert_visits import keys_of
from simulators.generation_replay import GenerationResult, Routing, replay_generation
from simulators.generation_shape import DriveCosts
from simulators.profile import HardwareProfile
from simulators.queued_mover import QueuedMover


def foretell(
    model: Path,
    config: RunConfig,
    workload: Workload,
    profile: HardwareProfile,
    trace: ExpertTrace | None = None,
    *,
    planned_with: HardwareProfile | None = None,
    mover: QueuedMover | None = None,
    drives: DriveCosts | None = None,
) -> GenerationResult:
    """Replay ``workload`` on the machine of ``profile``; the plan is made as ``offload run`` would make it there.

    ``trace`` is the routing of the same generation, for a mixture of experts; ``planned_with`` is the profile that the
    plan is made with where that is another one. Raises as ``offload.load``, and TraceError.
    A run on computational drives takes ``drives``, by default what emulated ones take here; see ``measure_drives``.
    """
    prospect = open_prospect(model, config, context_tokens=workload.context_tokens)
    try:
        plan = plan_for(prospect, config, workload, planned_with or profile)
        if config.csd and drives is None:
            drives = measure_drives(prospect, config, workload).emulated
        return replay_generation(
            model_shape(prospect, plan),
            placement_shape(prospect, plan, config, workload, drives),
            work_shape(workload),
            profile,
            None if trace is None else _routing(trace, config),
            mover=mover,
        )
    finally:
        prospect.source.close()


def _routing(trace: ExpertTrace, config: RunConfig) -> Routing:
    gates = dict(zip(trace.layers.tolist(), trace.gates, strict=True)) if trace.gates.size else {}
    top_k = trace.experts.shape[2]
    predictor = make_predictor(config.predictor, keys_of(trace), top_k, lambda: gates, lambda: trace.model)
    return Routing(trace, config.policy, predictor)
