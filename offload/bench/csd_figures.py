"""The systems of InstAttention's evaluation, and what they take for its workloads."""

from offload.simulation.drive_setup import CsdSetup
from simulators.model_costs import ModelShape, read_model_shape
from simulators.published import find_published
from simulators.serving.base import Host, ServingSystem, ServingTime, Workload
from simulators.serving.flexgen import FlexGen
from simulators.serving.in_storage import InStorage
from simulators.serving.recompute import Recompute
from simulators.serving.zero import ZeroInference
from tiers.errors import BudgetError, InvalidOptionError

BEYOND = "Groups"
"""Attention in storage that selects whole pages; the paper has none."""
SYSTEMS = ("FlexGen", "FlexGen-GDS", "FlexGen-SparQ", "DeepSpeed", "Recompute", "InstA", "SparF")
PROMPTS = {"opt-13b": 1024, "opt-30b": 1024, "llama-2-13b": 2048}
"""Of the models evaluated; as many new tokens follow. OPT-30B runs on two GPUs."""
_GPUS = {"opt-30b": 2}


class CsdFigures:
    """What systems take for workloads, each computed once."""

    def __init__(self, setup: CsdSetup) -> None:
        self.setup = setup
        self._times: dict[tuple[str, str, int, int], ServingTime | None] = {}

    def time(self, system: str, batch: int, *, model: str = "opt-13b", drives: int = 1) -> ServingTime | None:
        """None where the system runs out of memory."""
        key = (system, model, batch, drives)
        if key not in self._times:
            try:
                self._times[key] = self.system(system, drives).time(workload_of(model, batch), self._host(model))
            except BudgetError:
                self._times[key] = None
        return self._times[key]

    def rate(self, system: str, batch: int, *, model: str = "opt-13b", drives: int = 1) -> float:
        """Tokens per second; 0 where the system runs out of memory."""
        time = self.time(system, batch, model=model, drives=drives)
        return 0.0 if time is None else time.tokens_per_s

    def kv_share(self, system: str, batch: int, *, drives: int = 1) -> float:
        """Of the decode time, in percent."""
        time = self.time(system, batch, drives=drives)
        return 0.0 if time is None else 100 * time.kv_share

    def system(self, name: str, drives: int) -> ServingSystem:
        """One of SYSTEMS, or BEYOND."""
        drive, costs, path = self.setup.drive, self.setup.software, self.setup.path
        systems: dict[str, ServingSystem] = {
            "FlexGen": FlexGen(costs, drives),
            "FlexGen-GDS": FlexGen(costs, drives, is_direct=True),
            "FlexGen-SparQ": FlexGen(costs, drives, kv_share=costs.sparq_share),
            "DeepSpeed": ZeroInference(costs),
            "Recompute": Recompute(costs),
            "InstA": InStorage(drive, costs, drives, path=path),
            "SparF": InStorage(drive, costs, drives, self.setup.selection, path=path),
            BEYOND: InStorage(drive, costs, drives, self.setup.groups, path=path),
        }
        if name not in systems:
            raise InvalidOptionError(f"there is no system '{name}'; known are {', '.join(systems)}")
        return systems[name]

    def _host(self, model: str) -> Host:
        return Host(self.setup.profile, devices=_GPUS.get(model, 1))


def workload_of(model: str, batch: int) -> Workload:
    """As evaluated: 1024 + 1024 tokens, of Llama-2-13B 2048 + 2048. Other models are taken at 1024 + 1024."""
    prompt = PROMPTS.get(model, 1024)
    return Workload(shape_of(model), batch, prompt, prompt)


def shape_of(model: str) -> ModelShape:
    """Of a model that ships, or of a config.json."""
    return read_model_shape(find_published("models", model))
