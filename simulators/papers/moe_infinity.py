"""MoE-Infinity's seconds a token on an RTX A5000 (arXiv 2401.14361), and those of the systems it was compared with.

A decode step of one request takes what the software takes for each layer, the reading of the active weights from the
device's memory, and the moving of what is not there. For MoE-Infinity and mixtral-offloading how much that is comes out
of a replay of policies and the predictor that ship, over made-up routing of requests of which each prefers experts of
its own while all together prefer none, as the paper found.

DeepSpeed's ZeRO-3 fetches each matrix when its module is called. It would fetch ahead in the order of the step before,
but drops that order whenever another expert is called (its maintainers, DeepSpeed issue 4808), so nothing overlaps.

The values are those of the version of the repository's table that has all four models. Qwen3-30B-A3B came with a later
one, together with other versions of MoE-Infinity and vLLM, and is left out.
"""

from prefetch.activation_matrix import ActivationMatrixPredictor
from simulators.expert_replay import PrefetchLimits, ReplayCounts, replay
from simulators.expert_trace import ExpertTrace
from simulators.expert_visits import keys_of, passes_of
from simulators.papers.cell import Cell
from simulators.papers.flexgen_table import DEEPSPEED_EFFICIENCY
from simulators.papers.moe_models import DEEPSEEK, MIXTRAL, NLLB, SWITCH, MoE
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

LAYER_S = 4.97e-3
"""What the software takes for a layer. Calibrated on MoE-Infinity with DeepSeek-V2-Lite."""
VLLM_EFFICIENCY = 0.448
"""Of the link. Calibrated on DeepSeek-V2-Lite."""
FETCH_S = 0.309e-3
"""What DeepSpeed takes for a matrix besides its bytes. Calibrated on DeepSeek-V2-Lite."""

_OWN = {DEEPSEEK: "0.155", MIXTRAL: "0.735", SWITCH: "0.130", NLLB: "0.119"}
_VLLM = {DEEPSEEK: "0.493", MIXTRAL: "2.137"}
_DEEPSPEED = {DEEPSEEK: "0.737", MIXTRAL: "2.486", SWITCH: "4.578", NLLB: "8.381"}
_MIXTRAL_OFFLOADING = "1.752"
_NOTES = {
    ("MoE-Infinity", DEEPSEEK): "0.100 in a later version of the repository",
    ("MoE-Infinity", MIXTRAL): "0.836 in the paper's text, 0.895 in an earlier version of the repository",
    ("MoE-Infinity", SWITCH): "0.155 in the paper's text, 0.230 in an earlier version of the repository",
    ("MoE-Infinity", NLLB): (
        "0.531 in the paper's text, 0.239 in an earlier version of the repository: ours lies between published values "
        "that differ by a factor of four"
    ),
    ("vLLM", DEEPSEEK): "0.149 with vLLM 0.8.5 in a later version of the repository",
    ("vLLM", MIXTRAL): (
        "slower than DeepSpeed here; the two are published 16 % apart, which is less than their errors together"
    ),
}
_EXCHANGE = (
    "16-bit experts are assumed: with its own of 2 bits all would fit; the evicted one is copied back, in turns with "
    "the one that comes, as its code does"
)


def moe_infinity_cells() -> list[Cell]:
    """Seconds of a token."""
    machine = load_profile("a5000")
    cells = [_cell(model, "MoE-Infinity", _own_s(model, machine), text) for model, text in _OWN.items()]
    cells += [_cell(model, "vLLM", _vllm_s(model, machine), text) for model, text in _VLLM.items()]
    cells += [_cell(model, "DeepSpeed", _deepspeed_s(model, machine), text) for model, text in _DEEPSPEED.items()]
    cells.append(_cell(MIXTRAL, "mixtral-offloading", _exchanging_s(MIXTRAL, machine), _MIXTRAL_OFFLOADING, _EXCHANGE))
    order = [model.name for model in _OWN]
    return sorted(cells, key=lambda cell: order.index(cell.row))


def slots(model: MoE) -> int:
    """Experts of all layers that fit on the device beside the rest of the model."""
    room = DEVICE_NBYTES - RESERVE_NBYTES - model.resident_nbytes
    return min(int(room / model.expert_nbytes), model.moe_layers * model.experts)


def _cell(model: MoE, system: str, ours: float, published: str, note: str = "") -> Cell:
    bar = 0.25 if system == "MoE-Infinity" else 0.15  # which is bound by software too, the others by the link
    note = note or _NOTES.get((system, model), "")
    return Cell(TABLE, model.name, system, "s/token", ours, published, bar, is_calibrated=model is DEEPSEEK, note=note)


def _own_s(model: MoE, machine: HardwareProfile) -> float:
    """Its own cache, which fetches ahead what it expects; what is on its way has still to be waited for in part."""
    trace = _routing(model)
    predictor = ActivationMatrixPredictor(keys_of(trace), _MOST_AHEAD)
    limits = PrefetchLimits(per_step=1, most=_MOST_AHEAD)
    policy = ActivationRatioPolicy[BlockKey](slots(model))
    counts = replay(trace, policy, predictor, limits, passes=passes_of(trace)).counts()
    return _resident_s(model, machine) + _missed_nbytes(model, counts) / machine.bytes_per_s("host->device")


def _vllm_s(model: MoE, machine: HardwareProfile) -> float:
    return model.active_nbytes / (VLLM_EFFICIENCY * machine.bytes_per_s("host->device"))


def _deepspeed_s(model: MoE, machine: HardwareProfile) -> float:
    """One matrix after another, at the share of the link that ZeRO-Inference reached with OPT-6.7B."""
    moving_s = model.called_nbytes / (DEEPSPEED_EFFICIENCY * machine.bytes_per_s("host->device"))
    return _resident_s(model, machine) + moving_s + model.called_matrices * FETCH_S


def _exchanging_s(model: MoE, machine: HardwareProfile) -> float:
    """An LRU cache for each layer, of as many whole slots for one as for another: that is how it is set up.

    For each expert that comes another one goes, over the same stream of copies: the two do not overlap.
    """
    trace = _routing(model)
    of_layer = slots(model) // model.moe_layers
    counts = replay(trace, PerLayerLRUPolicy(of_layer * model.moe_layers), passes=passes_of(trace)).counts()
    moved = _missed_nbytes(model, counts)
    ways = ("host->device", "device->host")
    return _resident_s(model, machine) + sum(moved / machine.bytes_per_s(way) for way in ways)


def _resident_s(model: MoE, machine: HardwareProfile) -> float:
    """A token of which all weights are there."""
    reading_s = model.active_nbytes / (machine.memory_bytes_per_s * machine.memory_share)
    return model.layers * LAYER_S + reading_s


def _missed_nbytes(model: MoE, counts: ReplayCounts) -> float:
    """Experts of one token that it has to wait for."""
    return (1 - counts.hit_ratio) * model.moe_layers * model.top_k * model.expert_nbytes


def _routing(model: MoE) -> ExpertTrace:
    lengths = [(_TOKENS, _TOKENS)] * _REQUESTS
    return generate_routing(lengths, model.moe_layers, model.experts, model.top_k, shape=SHAPE, seed=0)
