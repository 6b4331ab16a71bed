"""What a plan with computational drives predicts: with the emulated drives of this machine, and with real ones."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offload.config import RunConfig
from offload.doctor import load_profile
from offload.plan import Plan, Workload
from offload.prospect import open_prospect, plan_for
from offload.simulation.drive_speed import DriveSpeeds, drive_layers, measure_drives
from simulators.expert_trace import ExpertTrace
from simulators.flash.drive_file import load_drive
from simulators.generation_shape import DriveCosts

_NOTE = "--write-back is left out of the prediction: each new token goes to the drives with its query"


@dataclass(frozen=True, slots=True)
class DrivePlan:
    """``plan`` is what is left for the other tiers: ``layers`` keep their keys and values in drives.

    ``write_back`` is that of the run; predictions leave it out and say so.
    """

    plan: Plan
    workload: Workload
    layers: int
    drive: str
    speeds: DriveSpeeds
    write_back: int = 0

    def tokens_per_s(self, drives: DriveCosts) -> float:
        """Of the whole batch: in every layer the model waits for its drives."""
        return self.workload.batch / (self._rest_s + self.layers * drives.attend_s)

    def prefill_s(self, drives: DriveCosts) -> float:
        """Drives write while the model computes; the first new token waits for both."""
        written_s = self.layers * self.workload.prompt_tokens * drives.write_s
        return max(self.plan.predicted_prefill_s, written_s)

    @property
    def bottleneck(self) -> str:
        """``csd`` where the emulated drives take longer than all else."""
        return "csd" if self.layers * self.speeds.emulated.attend_s > self._rest_s else self.plan.bottleneck

    def as_json(self) -> dict[str, Any]:
        """Of the emulated drives, which is what a run here will show; the others under ``drives.modelled``."""
        emulated, modelled = self.speeds.emulated, self.speeds.modelled
        return {
            "predicted_tokens_per_s": self.tokens_per_s(emulated),
            "predicted_prefill_s": self.prefill_s(emulated),
            "bottleneck": self.bottleneck,
            "drives": {
                **({"note": _NOTE} if self.write_back else {}),
                "emulated": {"attend_ms": 1e3 * emulated.attend_s, "tokens_per_s": self.tokens_per_s(emulated)},
                "modelled": {
                    "drive": self.drive,
                    "attend_ms": 1e3 * modelled.attend_s,
                    "tokens_per_s": self.tokens_per_s(modelled),
                    "prefill_s": self.prefill_s(modelled),
                },
            },
        }

    @property
    def _rest_s(self) -> float:
        return self.workload.batch / self.plan.predicted_tokens_per_s


def plan_with_drives(
    config: RunConfig,
    model: Path,
    workload: Workload,
    drive: str = "instattention",
    *,
    trace: ExpertTrace | None = None,
) -> DrivePlan:
    """Plans, and tries the drives for a second or two; loads nothing. Raises as ``offload.load``, and TraceError.

    ``trace`` is a recorded routing of the model.
    """
    prospect = open_prospect(model, config, context_tokens=workload.context_tokens)
    try:
        plan = plan_for(prospect, config, workload, load_profile(config.device), trace=trace)
        speeds = measure_drives(prospect, config, workload, load_drive(drive))
    finally:
        prospect.source.close()
    return DrivePlan(plan, workload, len(drive_layers(prospect)), drive, speeds, config.write_back)
