"""What a pass computes, in seconds: the costs that the simulator replays a generation with, added up."""

from offload.plan import ModelSizes, Workload
from simulators.generation_costs import GenerationCosts
from simulators.generation_shape import AttentionShape, GroupShape, LayerShape, WorkShape
from simulators.profile import HardwareProfile
from tiers.block import WeightGroupKey
from tiers.tier import align_up


def compute_step_s(sizes: ModelSizes, workload: Workload, costs: GenerationCosts, context: int) -> float:
    """One step of the whole batch at a context of so many tokens, all weights and blocks on the device."""
    attention_s = 0.0
    if sizes.num_layers:
        attention_s = workload.batch * sizes.num_layers * costs.attention_s(_attention(sizes), 1, context)
    return _dense_s(sizes, workload, costs, 1) + attention_s + _experts_s(sizes, costs, workload.batch)


def compute_prefill_s(
    sizes: ModelSizes, workload: Workload, costs: GenerationCosts, chunk_tokens: int
) -> tuple[float, float]:
    """The prompt, in pieces of ``chunk_tokens``: all but routed experts, and those; all of it on the device.

    Pieces are never faster than the whole, of whose first token alone the costs say that weights are read for it.
    """
    whole = _prefill_s(sizes, workload, costs, workload.prompt_tokens)
    if chunk_tokens >= workload.prompt_tokens:
        return whole
    pieces = _prefill_s(sizes, workload, costs, chunk_tokens)
    return max(whole[0], pieces[0]), max(whole[1], pieces[1])


def one_expert_s(sizes: ModelSizes, costs: GenerationCosts, tokens: int) -> float:
    """An expert that some tokens have chosen."""
    matrices = sizes.expert_matrices or (align_up(sizes.expert_nbytes),)
    return costs.runtime.expert_s + costs.products_s(matrices, tokens, by_vector=True)


def lost_share(profile: HardwareProfile, slot_nbytes: int, byte_s: float) -> float:
    """Of a second in which weights are read, how much computing loses: to the link, and to the work for each group."""
    runtime = profile.runtime
    return 0.0 if runtime is None else 1 - runtime.busy_share + runtime.group_s / (slot_nbytes * byte_s)


def _prefill_s(sizes: ModelSizes, workload: Workload, costs: GenerationCosts, chunk_tokens: int) -> tuple[float, float]:
    dense_s = experts_s = 0.0
    start = 0
    for tokens in WorkShape(workload.prompt_tokens, 1).passes(chunk_tokens):
        dense_s += _dense_s(sizes, workload, costs, tokens)
        if sizes.num_layers:
            attention = _attention(sizes)
            # Of the tokens that come together each sees half of the others.
            row_s = costs.attention_s(attention, tokens, tokens // 2)
            row_s += costs.attention_s(attention, tokens, start) if start else 0.0
            dense_s += workload.batch * sizes.num_layers * row_s
        experts_s += _experts_s(sizes, costs, tokens * workload.batch)
        start += tokens
    return dense_s, experts_s


def _dense_s(sizes: ModelSizes, workload: Workload, costs: GenerationCosts, tokens: int) -> float:
    """A pass of so many tokens of each sequence, but for attention to tokens and for routed experts."""
    runtime, count = costs.runtime, workload.batch * tokens
    matrices = sizes.layer_matrices or tuple((nbytes, 1) for nbytes in sizes.layer_nbytes)
    layers_s = sum(number * costs.products_s((nbytes,), count) for nbytes, number in matrices)
    activations = sizes.layer_activations or ((0, len(sizes.layer_nbytes)),)
    layers_s += sum(number * costs.layer_s(_without_products(nbytes), count) for nbytes, number in activations)
    head_s = sum(
        runtime.slice_s + costs.products_s((nbytes,), workload.batch, by_vector=True) for nbytes in sizes.head_nbytes
    )
    return runtime.step_s + layers_s + head_s


def _experts_s(sizes: ModelSizes, costs: GenerationCosts, tokens: int) -> float:
    visited = min(sizes.num_experts, tokens * sizes.experts_per_token)
    if not visited:
        return 0.0
    each = -(-tokens * sizes.experts_per_token // visited)
    matrices = sizes.expert_matrices or (align_up(sizes.expert_nbytes),)
    layer_s = costs.runtime.moe_layer_s + costs.runtime.moe_byte_s * sum(matrices)
    return visited * one_expert_s(sizes, costs, each) + sizes.num_sparse_layers * layer_s


def _attention(sizes: ModelSizes) -> AttentionShape:
    per_pair = sizes.attention_flops_per_pair / sizes.num_layers
    return AttentionShape(sizes.kv_heads, sizes.kv_nbytes_per_token_layer, per_pair)


def _without_products(activation_nbytes: int) -> LayerShape:
    attention = AttentionShape(kv_heads=1, token_nbytes=0, flops_per_pair=0.0)
    return LayerShape(GroupShape(WeightGroupKey("layer"), (), ()), attention, activation_nbytes=activation_nbytes)
