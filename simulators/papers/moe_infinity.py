"""MoE-Infinity's seconds a token on an RTX A5000 (arXiv 2401.14361), and those of the systems it was compared with.

A decode step of one request takes what the software takes for each layer, the reading of the active weights from the
device's memory, and the moving of what the cache of experts does not hold. How much that is comes out of a replay of
the policy and the predictor that ship, over made-up routing of requests of which each prefers experts of its own while
all together prefer none, as the paper found.
"""

from dataclasses import dataclass

from prefetch.activation_matrix import ActivationMatrixPredictor
from simulators.expert_replay import PrefetchLimits, ReplayCounts, replay
from simulators.expert_trace import ExpertTrace
from simulators.expert_visits import keys_of, passes_of
from simulators.papers.cell import Cell
from simulators.profile import HardwareProfile
from simulators.published import load_profile
from simulators.routing_generator import RoutingShape, generate_routing
from tiers.block import BlockKey
from tiers.eviction.activation_ratio import ActivationRatioPolicy
from tiers.eviction.per_layer import PerLayerLRUPolicy

TABLE = "MoE-Infinity (arXiv 2401.14361), its table 1 and its repository"
DEVICE_NBYTES = 24 * 2**30
RESERVE_NBYTES = 2 * 2**30
"""Of the device for CUDA itself, activations and the cache of keys and values; assumed."""
SHAPE = RoutingShape(skew=0.0, locality=0.5, continuity=0.9, topic=0.5)
"""Assumed: half of a state is its request's own."""

_REQUESTS, _TOKENS = 6, 32
_MOST_AHEAD = 8


@dataclass(frozen=True, slots=True)
class MoE:
    """What of a model its decoder uses. Sizes are those of the type in which the paper says that it was run."""

    name: str
    layers: int
    """Of the decoder."""
    moe_layers: int
    """Of these, those with experts."""
    experts: int
    top_k: int
    expert_nbytes: float
    total_nbytes: float
    dense_nbytes: float
    """All but experts; on the device."""

    @property
    def active_nbytes(self) -> float:
        """What one token is computed with."""
        return self.dense_nbytes + self.moe_layers * self.top_k * self.expert_nbytes


DEEPSEEK = MoE("DeepSeek-V2-Lite", 27, 26, 64, 6, 17.3e6, 31.4e9, 2.6e9)
MIXTRAL = MoE("Mixtral-8x7B", 32, 32, 8, 2, 352.3e6, 93.4e9, 3.2e9)
SWITCH = MoE("Switch-large-128", 24, 12, 128, 1, 33.5e6, 105e9, 2.4e9)
NLLB = MoE("NLLB-MoE-54B", 24, 6, 128, 2, 134.2e6, 218e9, 11.8e9)

LAYER_S = 4.97e-3
"""What the software takes for a layer. Calibrated on DeepSeek-V2-Lite."""
VLLM_EFFICIENCY = 0.448
"""Of the link. Calibrated on DeepSeek-V2-Lite."""

_OWN = {DEEPSEEK: 0.155, MIXTRAL: 0.735, SWITCH: 0.130, NLLB: 0.119}
_NOTES = {
    MIXTRAL: "the paper's text has 0.836 s",
    NLLB: "from the repository; the paper's text has 0.531 s: the two differ by more than ours from either",
    SWITCH: "from the repository; the paper's text has 0.155 s",
}
_STREAMED = "every weight over a link of 24 GB/s would take this long; so it cannot have moved all of them"
_ON_DEMAND = "an LRU cache for each layer at the link's full rate; what the system reached of it is not reported"


def moe_infinity_cells() -> list[Cell]:
    """Seconds of a token."""
    machine = load_profile("a5000")
    cells = []
    for model, paper in _OWN.items():
        ours = model.layers * LAYER_S + _reading_s(model, machine) + _moving_s(model, _replayed(model), machine)
        is_calibrated = model is DEEPSEEK
        cells.append(_cell(model, "MoE-Infinity", ours, paper, _NOTES.get(model, ""), is_calibrated=is_calibrated))
    for model, paper in ((DEEPSEEK, 0.493), (MIXTRAL, 2.137)):
        is_calibrated = model is DEEPSEEK
        on_demand_s = model.active_nbytes / machine.bytes_per_s("host->device") / VLLM_EFFICIENCY
        cells.append(_cell(model, "vLLM", on_demand_s, paper, is_calibrated=is_calibrated))
    for model, paper in ((DEEPSEEK, 0.737), (MIXTRAL, 2.486)):
        streamed_s = model.total_nbytes / machine.bytes_per_s("host->device")
        cells.append(_cell(model, "DeepSpeed", streamed_s, paper, _STREAMED))
    on_demand = _moving_s(MIXTRAL, _replayed_on_demand(MIXTRAL), machine)
    ours = MIXTRAL.layers * LAYER_S + _reading_s(MIXTRAL, machine) + on_demand
    cells.append(_cell(MIXTRAL, "mixtral-offloading", ours, 1.752, _ON_DEMAND))
    order = list(_OWN)
    return sorted(cells, key=lambda cell: [model.name for model in order].index(cell.row))


def slots(model: MoE) -> int:
    """Experts of all layers that fit on the device beside the rest of the model."""
    room = DEVICE_NBYTES - RESERVE_NBYTES - model.dense_nbytes
    return min(int(room / model.expert_nbytes), model.moe_layers * model.experts)


def _cell(model: MoE, system: str, ours: float, paper: float, note: str = "", *, is_calibrated: bool = False) -> Cell:
    return Cell(TABLE, model.name, system, "s/token", ours, paper, is_calibrated=is_calibrated, note=note)


def _reading_s(model: MoE, machine: HardwareProfile) -> float:
    return model.active_nbytes / (machine.memory_bytes_per_s * machine.memory_share)


def _moving_s(model: MoE, counts: ReplayCounts, machine: HardwareProfile) -> float:
    """For the experts of one token that it has to wait for."""
    missed = (1 - counts.hit_ratio) * model.moe_layers * model.top_k
    return missed * model.expert_nbytes / machine.bytes_per_s("host->device")


def _routing(model: MoE) -> ExpertTrace:
    lengths = [(_TOKENS, _TOKENS)] * _REQUESTS
    return generate_routing(lengths, model.moe_layers, model.experts, model.top_k, shape=SHAPE, seed=0)


def _replayed(model: MoE) -> ReplayCounts:
    """Its own cache, which fetches ahead what it expects; what is on its way has still to be waited for in part."""
    trace = _routing(model)
    predictor = ActivationMatrixPredictor(keys_of(trace), _MOST_AHEAD)
    limits = PrefetchLimits(per_step=1, most=_MOST_AHEAD)
    policy = ActivationRatioPolicy[BlockKey](slots(model))
    return replay(trace, policy, predictor, limits, passes=passes_of(trace)).counts()


def _replayed_on_demand(model: MoE) -> ReplayCounts:
    """An LRU cache for each layer, of as many whole slots for one as for another: that is how it is set up."""
    trace = _routing(model)
    of_layer = slots(model) // model.moe_layers
    return replay(trace, PerLayerLRUPolicy(of_layer * model.moe_layers), passes=passes_of(trace)).counts()
