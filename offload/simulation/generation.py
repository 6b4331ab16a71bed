"""A checkpoint and its plan as the simulator's replay of a generation wants them: sizes and names, no tensors."""

from collections.abc import Mapping

from offload.config import RunConfig
from offload.kv.cache import layer_windows
from offload.loader import nvme_blocks
from offload.matrices import activation_nbytes, matrices_of
from offload.plan import Plan, Workload
from offload.prospect import Prospect
from simulators.generation_shape import (
    AttentionShape,
    DriveCosts,
    GroupShape,
    LayerShape,
    ModelShape,
    PlacementShape,
    WorkShape,
)
from tiers.block import ExpertKey, WeightGroupKey
from tiers.tier import align_up
from tiers.weight_tier import WeightGroup, WeightTier


def model_shape(prospect: Prospect, plan: Plan) -> ModelShape:
    """The model in weight groups; those that the plan streams are marked."""
    source, sizes = prospect.source, prospect.sizes
    streamed = set(plan.streamed)
    groups = {kind: [g for g in source.groups if g.kind == kind] for kind in ("layer", "head", "embedding", "expert")}
    kv = prospect.architecture.attention.kv
    experts = _experts(groups["expert"])
    layers = []
    for index, (group, window) in enumerate(zip(groups["layer"], layer_windows(prospect.config), strict=True)):
        attention = AttentionShape(
            kv.heads, sizes.kv_nbytes_per_token_layer, sizes.attention_flops_per_pair / sizes.num_layers, window
        )
        shape = _group(source, group, streamed)
        layers.append(LayerShape(shape, attention, experts.get(index, ()), activation_nbytes(group)))
    is_streamed = any(group.key.name in streamed for group in groups["embedding"])
    return ModelShape(
        dtype=sizes.dtype,
        layers=tuple(layers),
        head=_head(source, groups["head"], streamed),
        experts=tuple(_group(source, group, set()) for group in groups["expert"]),
        embedding_row=align_up(sizes.embedding_row_nbytes) if is_streamed else 0,
    )


def placement_shape(
    prospect: Prospect, plan: Plan, config: RunConfig, workload: Workload, drives: DriveCosts | None = None
) -> PlacementShape:
    """What the loader makes of a plan."""
    kinds = {group.key.name: group.kind for group in prospect.source.groups}
    chunk = plan.prefill_chunk_tokens
    return PlacementShape(
        streamed=tuple(WeightGroupKey(name) for name in plan.streamed if kinds[name] != "embedding"),
        staging_slots=plan.staging_slots,
        slot_nbytes=plan.slot_nbytes,
        kv_block_tokens=prospect.sizes.kv_block_tokens,
        kv_block_nbytes=plan.kv_block_nbytes,
        kv_device_blocks=plan.kv_device_blocks,
        kv_host_blocks=plan.kv_host_blocks,
        kv_nvme_blocks=nvme_blocks(prospect, plan, config, workload),
        kv_policy=config.kv_policy,
        expert_slots=plan.expert_slots,
        expert_slot_nbytes=plan.expert_slot_nbytes,
        prefill_chunk_tokens=chunk if chunk < workload.prompt_tokens else None,
        drives=drives,
    )


def work_shape(workload: Workload) -> WorkShape:
    """What is asked."""
    return WorkShape(workload.prompt_tokens, workload.new_tokens, workload.batch)


def _group(source: WeightTier, group: WeightGroup, streamed: set[str]) -> GroupShape:
    extents = tuple(source.extents(source.slot_of(group.key)))
    return GroupShape(group.key, matrices_of(group), extents, group.key.name in streamed)


def _head(source: WeightTier, groups: list[WeightGroup], streamed: set[str]) -> tuple[GroupShape, ...]:
    """The slices in the order of their use; as one product where all of them stay and lie side by side."""
    groups = sorted(groups, key=_first_row)
    slices = tuple(_group(source, group, streamed) for group in groups)
    stays = not any(piece.is_streamed for piece in slices)
    # Slots are whole pages: between slices that do not fill theirs, or do not begin with them, there are gaps.
    if stays and all(align_up(group.nbytes) == group.tensors[0].nbytes for group in groups[:-1]):
        return (GroupShape(slices[0].key, (sum(piece.products[0] for piece in slices),), ()),)
    return slices


def _experts(groups: list[WeightGroup]) -> Mapping[int, tuple[ExpertKey, ...]]:
    """By layer, the keys of its experts by their number."""
    keys = sorted(group.key for group in groups if isinstance(group.key, ExpertKey))
    return {layer: tuple(key for key in keys if key.layer == layer) for layer in {key.layer for key in keys}}


def _first_row(group: WeightGroup) -> int:
    return group.first_row
