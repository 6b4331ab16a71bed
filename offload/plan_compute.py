"""What a decode step computes, in seconds: the costs that the simulator replays a generation with, added up."""

from offload.plan import ModelSizes, Workload
from simulators.generation_costs import GenerationCosts
from simulators.generation_shape import AttentionShape
from simulators.profile import HardwareProfile
from tiers.tier import align_up


def compute_step_s(sizes: ModelSizes, workload: Workload, profile: HardwareProfile, context: int) -> float:
    """One step of the whole batch at a context of so many tokens, all weights and blocks on the device."""
    costs = GenerationCosts(profile, sizes.dtype)
    runtime, batch = costs.runtime, workload.batch
    matrices = sizes.layer_matrices or tuple((nbytes, 1) for nbytes in sizes.layer_nbytes)
    layers_s = sum(count * costs.products_s((nbytes,), batch) for nbytes, count in matrices)
    head_s = sum(runtime.slice_s + costs.products_s((nbytes,), batch, by_vector=True) for nbytes in sizes.head_nbytes)
    fixed_s = runtime.step_s + len(sizes.layer_nbytes) * runtime.layer_s
    return fixed_s + layers_s + head_s + _attention_s(sizes, costs, batch, context) + _experts_s(sizes, costs, batch)


def lost_share(profile: HardwareProfile, slot_nbytes: int, byte_s: float) -> float:
    """Of a second in which weights are read, how much computing loses: to the link, and to the work for each group."""
    runtime = profile.runtime
    return 0.0 if runtime is None else 1 - runtime.busy_share + runtime.group_s / (slot_nbytes * byte_s)


def _attention_s(sizes: ModelSizes, costs: GenerationCosts, batch: int, context: int) -> float:
    if not sizes.num_layers:
        return 0.0
    per_pair = sizes.attention_flops_per_pair / sizes.num_layers
    attention = AttentionShape(sizes.kv_heads, sizes.kv_nbytes_per_token_layer, per_pair)
    return batch * sizes.num_layers * costs.attention_s(attention, 1, context)


def _experts_s(sizes: ModelSizes, costs: GenerationCosts, batch: int) -> float:
    visited = min(sizes.num_experts, batch * sizes.experts_per_token)
    if not visited:
        return 0.0
    runtime, tokens = costs.runtime, -(-batch * sizes.experts_per_token // visited)
    matrices = sizes.expert_matrices or (align_up(sizes.expert_nbytes),)
    one_s = runtime.expert_s + costs.products_s(matrices, tokens, by_vector=True)
    layer_s = runtime.moe_layer_s + runtime.moe_byte_s * sum(matrices)
    return visited * one_s + sizes.num_sparse_layers * layer_s
