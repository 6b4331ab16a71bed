"""The generations that the simulator has to foretell: dense, with streamed weights or KV cache, and mixtures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from offload.config import RunConfig
from offload.plan import Plan, Workload
from offload.planner import smallest_device_bytes
from offload.prospect import Prospect, open_prospect, plan_for
from simulators.profile import HardwareProfile
from tiers.errors import InvalidOptionError

MeasureBudget = Callable[[Prospect, Plan], int | None]
"""From a model and the plan with everything on the device to the device memory to give it."""


@dataclass(frozen=True, slots=True)
class Setup:
    """One ``offload run``. ``is_mixture`` says which of the two models; ``host_memory`` is for KV blocks."""

    name: str
    budget: MeasureBudget
    prompt_tokens: int = 64
    new_tokens: int = 33
    is_mixture: bool = False
    host_memory: int = 0
    policy: str = "expected_use"
    predictor: str = "none"
    csd: int = 0

    @property
    def workload(self) -> Workload:
        """One sequence."""
        return Workload(1, self.prompt_tokens, self.new_tokens)

    def config(self, model: Path, nvme_dir: Path, profile: HardwareProfile) -> RunConfig:
        """What ``offload run`` is told."""
        config = RunConfig(
            host_memory=self.host_memory,
            nvme_dir=nvme_dir,
            policy=self.policy,
            predictor=self.predictor,
            csd=self.csd,
        )
        prospect = open_prospect(model, config, context_tokens=self.workload.context_tokens)
        prospect.source.close()
        whole = plan_for(prospect, config, self.workload, profile)
        return replace(config, device_memory=self.budget(prospect, whole))


def everything(_: Prospect, __: Plan) -> int | None:
    """No bound."""
    return None


def share(part: float) -> MeasureBudget:
    """A part of what everything takes, or as much as it takes to run at all."""

    def measure(prospect: Prospect, whole: Plan) -> int:
        return max(round(part * whole.device_bytes_used), _smallest(prospect, whole))

    return measure


def room_for_kv(part: float) -> MeasureBudget:
    """What all weights and this part of the KV cache take: what moves, blocks or weights, is the planner's choice."""
    return lambda _, whole: round(whole.device_bytes_used - (1 - part) * whole.kv_device_blocks * whole.kv_block_nbytes)


def expert_share(part: float) -> MeasureBudget:
    """All that is dense, and this part of the experts."""

    def measure(prospect: Prospect, whole: Plan) -> int:
        return whole.device_bytes_used - round((1 - part) * prospect.sizes.num_experts) * whole.expert_slot_nbytes

    return measure


def _smallest(prospect: Prospect, whole: Plan) -> int:
    from offload.plan import Budgets

    tokens = whole.kv_device_blocks // prospect.sizes.num_layers * prospect.sizes.kv_block_tokens
    return smallest_device_bytes(prospect.sizes, Budgets(), Workload(1, max(1, tokens - 1), 1))


def setups(long: int = 8192, middle: int = 2048, new: int = 33) -> Sequence[Setup]:
    """The table. Contexts in tokens, answer included; ``new`` tokens of each."""

    def dense(name: str, budget: MeasureBudget, prompt: int = 64, host: int = 0) -> Setup:
        return Setup(name, budget, prompt, new, host_memory=host)

    def mixture(name: str, part: float, policy: str, predictor: str = "none") -> Setup:
        return Setup(
            f"experts, {name}", expert_share(part), 64, new, is_mixture=True, policy=policy, predictor=predictor
        )

    gib = 2**30
    return (
        dense("all resident", everything),
        dense(f"all resident, {middle} tokens", everything, middle - new),
        dense("weights, nine tenths on the device", share(0.9)),
        dense("weights, half on the device", share(0.5)),
        dense("weights, a quarter on the device", share(0.25)),
        dense(f"{middle} tokens, room for half of their KV", room_for_kv(0.5), middle - new),
        dense(f"{middle} tokens, room for a quarter of their KV, and a host", room_for_kv(0.25), middle - new, gib),
        dense(f"{long} tokens, room for half of their KV", room_for_kv(0.5), long - new),
        # So little that KV blocks have to move, besides weights.
        dense(f"weights and KV of {long} tokens, three tenths, rest on the drive", share(0.3), long - new),
        dense(f"weights and KV of {long} tokens, three tenths, KV in the host", share(0.3), long - new, gib),
        Setup(f"KV of {middle} tokens in an emulated computational drive", everything, middle - new, new, csd=1),
        mixture("all resident", 1.0, "lru"),
        mixture("a half, lru", 0.5, "lru"),
        mixture("a half, lfu", 0.5, "lfu"),
        mixture("a half, expected_use", 0.5, "expected_use"),
        mixture("a half, expected_use, next_gate", 0.5, "expected_use", "next_gate"),
        mixture("a quarter, lru", 0.25, "lru"),
        mixture("a quarter, arc", 0.25, "arc"),
        mixture("a quarter, expected_use, next_gate", 0.25, "expected_use", "next_gate"),
    )


def setups_with(texts: Sequence[str]) -> Sequence[Setup]:
    """Those of the table with one of ``texts`` in their name, all without any. Raises InvalidOptionError for no match.

    Of a text that is a whole name only that one counts.
    """
    table = setups()
    whole = {setup.name for setup in table} & set(texts)
    chosen: set[str] = set(whole)
    for text in texts:
        found = {setup.name for setup in table if text in setup.name}
        if not found:
            names = "; ".join(setup.name for setup in table)
            raise InvalidOptionError(f"--only '{text}': in the name of no setup; they are: {names}")
        chosen |= set() if text in whole else found
    return tuple(setup for setup in table if setup.name in chosen) if texts else table
