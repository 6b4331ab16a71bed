"""Which of a mixture's experts a decode step finds on the device, and how long it waits for the others.

Nobody knows the routing of a prompt before it has run. A recorded trace of the model says what it is like; without one
hits are those of a typical routing, and the plan says so.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from offload.plan import ModelSizes, RoutingBasis, Workload
from simulators.expert_replay import replay
from simulators.expert_trace import ExpertTrace
from simulators.expert_visits import passes_of
from simulators.generation_costs import GenerationCosts
from simulators.papers.side_by_side import side_by_side
from tiers.errors import TraceError
from tiers.eviction.registry import make_policy

_REUSE = 0.75
"""What routing is better than even by, see ``typical_hit_ratio``."""


@dataclass(frozen=True, slots=True)
class ExpertUse:
    """Of a decode step, in all layers: experts that it visits, and those that are not there."""

    visits: float
    misses: float
    basis: RoutingBasis

    @property
    def hit_ratio(self) -> float:
        return 1 - self.misses / self.visits if self.visits else 1.0


Foresee = Callable[[int], ExpertUse]
"""From the slots of the device's cache of experts to their use."""


def typical_hit_ratio(share: float) -> float:
    """Hits of a cache that holds ``share`` of the experts, by how tokens of text choose.

    Were all experts equally likely it would be the share itself. In the traces that we have recorded of a mixture of 32
    experts on text, tokens choose what those before them chose, and ``expected_use`` finds 0.42, 0.69 and 0.88 of the
    experts with 1/4, 1/2 and 3/4 of them cached; LRU 0.42, 0.61 and 0.85. The curve through the former has one
    constant.
    """
    return share + _REUSE * share * (1 - share)


def typical_use(sizes: ModelSizes, workload: Workload) -> Foresee:
    """Without a trace: of ``batch`` tokens each chooses for itself."""
    return lambda slots: _use(sizes, workload, typical_hit_ratio(_share(sizes, slots)))


def even_use(sizes: ModelSizes, workload: Workload) -> Foresee:
    """Were every expert as likely as any other: a real routing is hardly ever worse."""
    return lambda slots: _use(sizes, workload, _share(sizes, slots))


def _share(sizes: ModelSizes, slots: int) -> float:
    return min(1.0, slots / max(1, sizes.num_experts))


def _use(sizes: ModelSizes, workload: Workload, hit_ratio: float) -> ExpertUse:
    visits = experts_visited(sizes, workload)
    return ExpertUse(visits, visits * (1 - hit_ratio), "typical")


def recorded_use(sizes: ModelSizes, workload: Workload, trace: ExpertTrace, policy: str) -> Foresee:
    """What ``policy`` makes of a recorded routing, whose requests are taken ``batch`` at a time.

    Raises TraceError for a trace of another model, or one in which nothing was generated.
    """
    layers, experts = len(trace.layers), sizes.num_experts // max(1, sizes.num_sparse_layers)
    top_k = trace.experts.shape[2]
    if (layers, trace.num_experts, top_k) != (sizes.num_sparse_layers, experts, sizes.experts_per_layer_and_token):
        raise TraceError(
            f"the trace is of {layers} layers of {trace.num_experts} experts, {top_k} a token; the model has "
            f"{sizes.num_sparse_layers} of {experts}, {sizes.experts_per_layer_and_token} a token; record one of this "
            "model with 'offload trace record'"
        )
    if (found := len(set(trace.requests.tolist()))) < workload.batch:
        raise TraceError(
            f"the trace has {found} requests, fewer than --batch {workload.batch}; record it with --requests "
            f"{workload.batch} or more"
        )
    passes = passes_of(trace)
    if any(one.is_decode and one.num_requests != workload.batch for one in passes):
        trace = side_by_side(trace, workload.batch)
        passes = passes_of(trace)
    visited = [len(visit) for one in passes if one.is_decode for visit in one.visits]
    steps = sum(one.is_decode for one in passes)
    if not steps:
        raise TraceError("nothing was generated in this trace; record it with --max-new-tokens of 2 or more")
    bare = replace(trace, gate_inputs=trace.gate_inputs[..., :0])

    def foresee(slots: int) -> ExpertUse:
        if slots < max(visited):  # such a visit takes several goes, and hardly anything stays
            return ExpertUse(sum(visited) / steps, sum(visited) / steps, "recorded")
        counts = replay(bare, make_policy(policy, slots), passes=passes).counts()
        return ExpertUse(counts.accesses / steps, counts.misses / steps, "recorded")

    return foresee


def experts_visited(sizes: ModelSizes, workload: Workload) -> int:
    """Experts of all layers that a decode step takes at most."""
    return min(sizes.num_experts, workload.batch * sizes.experts_per_token)


def missing_s(sizes: ModelSizes, costs: GenerationCosts, use: ExpertUse, one_s: float, byte_s: float) -> float:
    """Seconds of a step that experts on their way take besides their products; ``one_s`` is that of one of those.

    What a layer misses sets out at once while those that are there are computed. How many these are varies from layer
    to layer, as if each expert were missing by itself, and where none is missing there is nothing to wait for.
    ``byte_s`` is what their bytes take, links side by side.
    """
    layers = max(1, sizes.num_sparse_layers)
    visits = round(use.visits / layers)
    if not visits or not use.misses:
        return 0.0
    runtime, share = costs.runtime, min(1.0, use.misses / use.visits)
    seconds = 0.0
    for missing in range(1, visits + 1):
        odds = math.comb(visits, missing) * share**missing * (1 - share) ** (visits - missing)
        latency_s = costs.profile.links["nvme->device"].latency_s
        reading_s = runtime.transfer_s + max(latency_s, missing * sizes.expert_nbytes * byte_s)
        books_s = missing * runtime.missed_expert_s
        here_s = (books_s + (visits - missing) * one_s) / costs.busy_share
        slower_s = (1 - costs.busy_share) * min(reading_s, here_s)
        seconds += odds * (books_s + slower_s + max(0.0, reading_s - here_s))
    return layers * seconds
