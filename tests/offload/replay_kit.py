"""The same made-up model for the planner, in sums, and for the simulator's replay, piece by piece."""

from offload.plan import ModelSizes, Plan, Workload
from simulators.expert_trace import ExpertTrace
from simulators.generation_replay import GenerationResult, Routing, replay_generation
from simulators.generation_shape import AttentionShape, GroupShape, LayerShape, ModelShape, PlacementShape, WorkShape
from simulators.profile import HardwareProfile
from tiers.block import ExpertKey, WeightGroupKey
from tiers.tier import Extent


def make_sizes(
    layers: int, *, matrix: int = 2**19, kv_token: int = 1024, experts: int = 0, top_k: int = 0, expert: int = 2**19
) -> ModelSizes:
    """Layers of four matrices of ``matrix`` bytes, and as many ``experts`` in each of three of ``expert / 3``."""
    return ModelSizes(
        layer_nbytes=(4 * matrix,) * layers,
        head_nbytes=(8 * matrix,),
        embedding_nbytes=8 * matrix,
        rest_nbytes=4096,
        tied=True,
        kv_nbytes_per_token_layer=kv_token,
        num_layers=layers,
        kv_block_tokens=64,
        flops_per_token=layers * 2.0 * matrix,
        workspace_nbytes_per_token=4096,
        workspace_nbytes_fixed=4096,
        attention_flops_per_pair=layers * 4.0 * kv_token,
        layer_matrices=((matrix, 4 * layers),),
        layer_activations=((8192, layers),),
        kv_heads=4,
        num_experts=layers * experts,
        experts_per_token=layers * top_k,
        experts_per_layer_and_token=top_k,
        expert_nbytes=3 * (expert // 3) if experts else 0,
        expert_matrices=(expert // 3,) * 3 if experts else (),
        num_sparse_layers=layers if experts else 0,
    )


def replayed(
    sizes: ModelSizes,
    plan: Plan,
    workload: Workload,
    profile: HardwareProfile,
    trace: ExpertTrace | None = None,
    policy: str = "expected_use",
) -> GenerationResult:
    """What the simulator makes of a plan."""
    shape = ModelShape(
        dtype=sizes.dtype,
        layers=tuple(_layer(sizes, plan, index) for index in range(len(sizes.layer_nbytes))),
        head=tuple(_group(f"head.{i}", (nbytes,), plan, sizes) for i, nbytes in enumerate(sizes.head_nbytes)),
        experts=tuple(
            GroupShape(key, sizes.expert_matrices, (Extent(0, 0, sizes.expert_nbytes, sizes.expert_nbytes),))
            for index in range(len(sizes.layer_nbytes))
            for key in _experts(sizes, index)
        ),
    )
    chunk = plan.prefill_chunk_tokens
    placement = PlacementShape(
        streamed=tuple(WeightGroupKey(name) for name in plan.streamed),
        staging_slots=plan.staging_slots,
        slot_nbytes=plan.slot_nbytes,
        kv_block_tokens=sizes.kv_block_tokens,
        kv_block_nbytes=plan.kv_block_nbytes,
        kv_device_blocks=plan.kv_device_blocks,
        kv_host_blocks=plan.kv_host_blocks,
        kv_nvme_blocks=2 * plan.kv_nvme_blocks,
        expert_slots=plan.expert_slots,
        expert_slot_nbytes=plan.expert_slot_nbytes,
        prefill_chunk_tokens=chunk if chunk < workload.prompt_tokens else None,
    )
    work = WorkShape(workload.prompt_tokens, workload.new_tokens, workload.batch)
    routing = None if trace is None else Routing(trace, policy)
    return replay_generation(shape, placement, work, profile, routing)


def _layer(sizes: ModelSizes, plan: Plan, index: int) -> LayerShape:
    products = tuple(nbytes for nbytes, count in sizes.layer_matrices for _ in range(count // len(sizes.layer_nbytes)))
    attention = AttentionShape(
        sizes.kv_heads, sizes.kv_nbytes_per_token_layer, sizes.attention_flops_per_pair / sizes.num_layers
    )
    group = _group(f"layers.{index}", products, plan, sizes)
    return LayerShape(group, attention, _experts(sizes, index), sizes.layer_activations[0][0])


def _group(name: str, products: tuple[int, ...], plan: Plan, sizes: ModelSizes) -> GroupShape:
    nbytes = dict(sizes.streamable)[name]
    return GroupShape(WeightGroupKey(name), products, (Extent(0, 0, nbytes, nbytes),), name in plan.streamed)


def _experts(sizes: ModelSizes, index: int) -> tuple[ExpertKey, ...]:
    count = sizes.num_experts // len(sizes.layer_nbytes)
    return tuple(ExpertKey(index, expert, "stored") for expert in range(count))
