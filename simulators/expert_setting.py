"""Experts on one machine: what is replayed, how many fit where, and how long the parts of a pass take."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from simulators.expert_costs import ExpertCosts
from simulators.expert_trace import ExpertTrace
from simulators.expert_visits import Pass
from simulators.model_costs import ModelShape
from simulators.profile import HardwareProfile
from simulators.running_costs import PriceTerms
from tiers.block import ExpertKey


@dataclass(frozen=True, slots=True)
class ExpertSetting:
    """``tiers`` are the bytes for experts on ``device`` and, if at all, in ``host`` memory."""

    trace: ExpertTrace
    profile: HardwareProfile
    shape: ModelShape
    tiers: Mapping[str, int]
    price: PriceTerms = field(default_factory=PriceTerms)

    @property
    def costs(self) -> ExpertCosts:
        """Sizes and seconds of the model's parts on the machine."""
        return ExpertCosts(self.shape, self.profile)

    @property
    def slots(self) -> dict[str, int]:
        """Whole experts by level."""
        costs = self.costs
        return {name: min(nbytes // costs.expert_nbytes, costs.num_experts) for name, nbytes in self.tiers.items()}


def levels_of(setting: ExpertSetting) -> tuple[str, ...]:
    """Where experts lie, the fastest first."""
    return (*(name for name in ("device", "host") if setting.slots.get(name)), "nvme")


def copied_keys(keys: list[ExpertKey], count: int) -> list[ExpertKey]:
    """Those with copies in host memory, spread over all as the runtime spreads them."""
    return [keys[i * len(keys) // count] for i in range(count)]


def counts_of(trace: ExpertTrace, one: Pass, place: int) -> list[int]:
    """How many tokens of a pass chose each expert."""
    counts: list[int] = np.bincount(trace.experts[one.tokens, place].reshape(-1), minlength=trace.num_experts).tolist()
    return counts


def resident_seconds(setting: ExpertSetting, one: Pass) -> list[float]:
    """Of one layer without its routed experts, and of the head."""
    tokens = (one.tokens.stop - one.tokens.start) // one.num_requests
    costs = setting.costs
    return [costs.layer_s(one.num_requests, tokens, one.position), costs.head_s(one.num_requests)]


def seconds_of(setting: ExpertSetting, one: Pass) -> list[float]:
    """Of all parts of a pass."""
    layer_s, head_s = resident_seconds(setting, one)
    parts = [layer_s * setting.shape.layers, head_s]
    for place, visit in enumerate(one.visits):
        counts = counts_of(setting.trace, one, place)
        parts += [setting.costs.expert_s(counts[key.expert]) for key in visit]
    return parts
