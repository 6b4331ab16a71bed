"""From a model directory and a budget to a transformers model whose weights and KV cache are tiered."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import GenerationConfig

from offload.allocator import return_memory_early
from offload.architecture import build_empty
from offload.arenas import Arena, arena_bytes, make_resident_arena
from offload.checkpoint.source import model_fingerprint
from offload.config import RunConfig
from offload.device import torch_device
from offload.dtypes import torch_dtype
from offload.experts.bind import bind_experts, expert_keys, gate_weights
from offload.experts.codecs.kernels import Kernels
from offload.experts.low_copies import low_groups
from offload.experts.names import CheckpointNames
from offload.experts.passes import announce_passes
from offload.experts.predictors import make_predictor
from offload.experts.store import ExpertStore
from offload.gpu_room import require_room
from offload.graphs.cuda import CudaGraphs
from offload.graphs.graphs import StepGraphs
from offload.graphs.obstacle import obstacle
from offload.initial_load import InitialLoad, Progress, evenly, verify_rows
from offload.kv.drives import KVDrives
from offload.kv.layout import KVLayout
from offload.kv.open_drives import MakeTiming, open_drives
from offload.offloaded_model import OffloadedModel
from offload.plan import Plan, Workload
from offload.positions import longest_context
from offload.prospect import Prospect
from offload.runtime import Runtime, make_kv_levels, make_kv_store
from offload.weights.binding import ParameterMap, module_of, tensor_view
from offload.weights.streamer import LayerHooks, WeightStreamer
from offload.weights.types import check_types
from offload.weights.vocabulary import TieredEmbedding, TieredHead, VocabularySlice, embedding_scale
from prefetch.decode_only import DecodeOnly
from simulators.profile import HardwareProfile
from tiers.copier import as_tensor
from tiers.errors import ModelError
from tiers.timeline import Timeline
from tiers.transfer import TransferConfig, TransferEngine
from tiers.weight_tier import WeightGroup, WeightKey, WeightTier

if TYPE_CHECKING:
    from tiers.manager import Level


def load_model(
    prospect: Prospect,
    plan: Plan,
    config: RunConfig,
    workload: Workload,
    *,
    profile: HardwareProfile | None = None,
    timeline: Timeline | None = None,
    transfer: TransferConfig | None = None,
    drive_timing: MakeTiming | None = None,
    progress: Progress | None = None,
) -> OffloadedModel:
    """Build the model, bring the weights that stay, set up streaming and the KV tiers. On failure nothing is left.

    ``profile`` says what is fastest here, if that was measured; ``drive_timing`` how long real computational
    drives would take for what the emulated ones do.
    """
    chunk = plan.prefill_chunk_tokens if plan.prefill_chunk_tokens < workload.prompt_tokens else None
    _prepare_memory(plan, config)
    engine = TransferEngine(transfer or _transfer_config(profile), timeline)
    layout = _kv_layout(prospect)
    levels: list[Level] = []
    drives: KVDrives | None = None
    streamer: WeightStreamer | None = None
    experts: ExpertStore | None = None
    try:
        blocks = nvme_blocks(prospect, plan, config, workload)
        levels = make_kv_levels(plan, layout, config, blocks)
        model = _build(prospect, torch_device(config.device))
        groups = {group.key.name: group for group in prospect.source.groups}
        resident = [groups[name] for name in dict.fromkeys((*prospect.sizes.rest_names, *plan.resident))]
        arena = make_resident_arena(config.device, [group.nbytes for group in resident])
        streamer = _make_streamer(engine, prospect.source, plan, groups, config.device)
        routed = [group for group in prospect.source.groups if group.kind == "expert"]
        experts = _make_experts(engine, prospect.source, plan, routed, config) if routed else None
        kv = make_kv_store(engine, levels, layout, prospect.sizes.num_layers)
        if config.csd:
            drives = open_drives(config, prospect, plan, workload, drive_timing, model)
        model.generation_config = _generation_config(prospect.path, model)
        model.runtime = Runtime(plan, engine, prospect.source, arena, streamer, experts, kv, levels, drives, chunk)
        names = CheckpointNames(model)
        check_types(prospect.source, prospect.dtype, model, names)
        everything_stays = plan.expert_slots == len(routed)
        low = low_groups(prospect.source, config.miss_precision, everything_stays=everything_stays)
        bind_experts(model, names, experts, [*routed, *low], Kernels.of(profile.kernels if profile else None))
        _bind(model, prospect, names, arena, resident, streamer)
        copied = [groups[name] for name in plan.in_host]
        _bring(model.runtime, resident, copied, routed, keeps_experts=everything_stays and not low, progress=progress)
        if experts:
            _predict(model, prospect, config, experts, low, everything_stays=everything_stays)
        if streamer:
            streamer.start()
        if config.cuda_graphs:
            in_the_way = obstacle(prospect.architecture, model.runtime)
            model.runtime.graphs = StepGraphs(model, CudaGraphs(torch_device(config.device)), obstacle=in_the_way)
    except BaseException:
        _give_back(engine, [part for part in (drives, streamer, experts) if part], levels)
        raise
    return model


def _prepare_memory(plan: Plan, config: RunConfig) -> None:
    """Raises BudgetError where a GPU has less left than the plan takes, before anything is read."""
    require_room(config.device, plan.device_bytes_used)
    if plan.streamed or plan.kv_host_blocks or plan.kv_nvme_blocks:
        return_memory_early()


def _transfer_config(profile: HardwareProfile | None) -> TransferConfig:
    measured = None if profile is None else profile.kvikio
    return TransferConfig() if measured is None else TransferConfig(kvikio=measured)


def _give_back(
    engine: TransferEngine, parts: Sequence[KVDrives | WeightStreamer | ExpertStore], levels: Sequence["Level"]
) -> None:
    """What a model that could not be loaded leaves. The links come first: they work in the memory of the others."""
    engine.close()
    for part in parts:
        part.close()
    for level in levels:
        level.tier.close()


def _make_streamer(
    engine: TransferEngine, source: WeightTier, plan: Plan, groups: Mapping[str, WeightGroup], device: str
) -> WeightStreamer | None:
    streamed = [groups[name] for name in plan.streamed if groups[name].kind != "embedding"]
    if not streamed:
        return None
    slots = max(1, plan.staging_slots)
    return WeightStreamer(engine, source, streamed, slots, device=device, host_slots=len(plan.in_host))


def _make_experts(
    engine: TransferEngine, source: WeightTier, plan: Plan, routed: Sequence[WeightGroup], config: RunConfig
) -> ExpertStore:
    # Where nothing ever has to leave, the policy that costs least is best.
    policy = config.policy if plan.expert_slots < len(routed) else "lru"
    return ExpertStore(
        engine, source, routed, plan.expert_slots, policy, device=config.device, host_slots=plan.host_experts
    )


def _build(prospect: Prospect, device: torch.device) -> OffloadedModel:
    try:
        return build_empty(prospect.config, prospect.architecture.model_class, torch_dtype(prospect.dtype), device)
    except ModelError as error:
        raise ModelError(f"{prospect.path}: {error}") from None


def _bind(
    model: OffloadedModel,
    prospect: Prospect,
    names: CheckpointNames,
    arena: Arena,
    resident: Sequence[WeightGroup],
    streamer: WeightStreamer | None,
) -> None:
    """Connect groups with the model: views for what stays, hooks for what is streamed, our own modules at both ends."""
    whole, starts = as_tensor(arena_bytes(arena)), arena.layout().starts
    views = {group.key: whole[starts[slot] :][: group.nbytes] for slot, group in enumerate(resident)}
    device = model.runtime.kv.rows.device
    head = [group for group in prospect.source.groups if group.kind == "head"]
    embedding = [group for group in prospect.source.groups if group.kind == "embedding"] or head
    has_bias = getattr(model.get_output_embeddings(), "bias", None) is not None
    scale = embedding_scale(model.get_input_embeddings())
    model.set_output_embeddings(TieredHead(_slices(head, views), streamer, has_bias=has_bias))
    model.set_input_embeddings(TieredEmbedding(prospect.source, _slices(embedding, views), scale))
    ignored = model._keys_to_ignore_on_load_unexpected or ()  # noqa: SLF001 - as transformers itself does
    parameters = ParameterMap(model, model.base_model_prefix, prospect.path, ignored, names.renamed, device=device)
    for group in prospect.source.groups:
        if group.kind in ("expert", "low_expert", "head", "embedding"):
            continue
        binding = parameters.bind(group)
        if group.key in views:
            binding.attach(binding.views(views[group.key]))
        else:
            assert streamer is not None, "a layer that does not stay needs a streamer"
            LayerHooks(streamer, binding, module_of(model, group, model.base_model_prefix))
    parameters.check_complete()


def _bring(
    runtime: Runtime,
    resident: Sequence[WeightGroup],
    copied: Sequence[WeightGroup],
    routed: Sequence[WeightGroup],
    *,
    keeps_experts: bool,
    progress: Progress | None,
) -> None:
    """What stays on the device, and what the host has copies of. Raises TransferError, CorruptBlockError."""
    load = InitialLoad(runtime.engine, runtime.source)
    load.stay(runtime.resident, resident)
    if runtime.streamer:
        load.copy_to_host(runtime.streamer.manager, copied)
    if runtime.experts:
        load.copy_to_host(runtime.experts.manager, evenly(routed, runtime.plan.host_experts))
        if keeps_experts:
            load.keep(runtime.experts)
    load.run(progress)
    verify_rows(runtime.source, runtime.plan)


def _predict(
    model: OffloadedModel,
    prospect: Prospect,
    config: RunConfig,
    experts: ExpertStore,
    low: Sequence[WeightGroup],
    *,
    everything_stays: bool,
) -> None:
    """Fetch experts ahead where there is anything to fetch, and ``low`` copies in their place where that is allowed.

    What is wrong with a predictor is told even if none is needed.
    """
    if low:
        low_copies = experts.use_low_copies(low, always=config.miss_precision == "low")
        announce_passes(model, low_copies.rule.begin)
    predictor = make_predictor(
        config.predictor,
        expert_keys(model),
        prospect.sizes.experts_per_layer_and_token,
        gates=lambda: gate_weights(model),
        fingerprint=lambda: model_fingerprint(prospect.path),
    )
    if predictor is not None and not everything_stays:
        if experts.low_copies:
            predictor = DecodeOnly(predictor)
        experts.predict_with(predictor)
        announce_passes(model, predictor.begin)


def _generation_config(path: Path, model: OffloadedModel) -> GenerationConfig:
    """How this model is meant to be sampled and what ends a sequence, where its directory says so."""
    if not (path / "generation_config.json").is_file():
        return model.generation_config
    try:
        settings: GenerationConfig = GenerationConfig.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{path / 'generation_config.json'}: {reason}; get the model again") from None
    settings.cache_implementation = None  # ours is in tiers
    return settings


def _slices(groups: Sequence[WeightGroup], views: Mapping[WeightKey, Tensor]) -> list[VocabularySlice]:
    return [
        VocabularySlice(group, tensor_view(views[group.key], group.tensors[0]) if group.key in views else None)
        for group in groups
    ]


def _kv_layout(prospect: Prospect) -> KVLayout:
    shape = prospect.architecture.attention.kv
    layout = KVLayout(prospect.sizes.kv_block_tokens, shape.heads, shape.key_dim, shape.value_dim, prospect.dtype)
    assert layout.block_nbytes == prospect.sizes.kv_block_nbytes, "planner and layout must agree on the size of a block"
    return layout


def nvme_blocks(prospect: Prospect, plan: Plan, config: RunConfig, workload: Workload) -> int:
    """Slots of the drive tier: what the plan needs, and as much of the model's whole context as is reasonable.

    A conversation may grow beyond what was planned for, up to the budget or, without one, half of the free space.
    """
    if config.nvme_dir is None or not plan.kv_nvme_blocks:
        return 0
    block = plan.kv_block_nbytes
    longest = longest_context(prospect.config) or 0
    rows = workload.batch * prospect.sizes.num_layers
    wanted = max(plan.kv_nvme_blocks, rows * -(-longest // prospect.sizes.kv_block_tokens))
    if config.nvme_memory is not None:
        return max(plan.kv_nvme_blocks, min(wanted, config.nvme_memory // block))
    parent = next(path for path in (config.nvme_dir, *config.nvme_dir.resolve().parents) if path.exists())
    return max(plan.kv_nvme_blocks, min(wanted, shutil.disk_usage(parent).free // 2 // block))
