"""From a model directory and a budget to a transformers model whose weights and KV cache are tiered."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import GenerationConfig, PreTrainedConfig

from offload.allocator import return_memory_early
from offload.architecture import Architecture, build_empty, read_architecture, standard_config
from offload.checkpoint.source import model_fingerprint, open_source
from offload.config import RunConfig
from offload.device import available_bytes, require_device
from offload.dtypes import torch_dtype
from offload.experts.bind import bind_experts, expert_keys, gate_weights
from offload.experts.names import CheckpointNames
from offload.experts.note import ExpertNote
from offload.experts.passes import announce_passes
from offload.experts.predictors import make_predictor
from offload.experts.store import ExpertStore
from offload.kv.layout import KVLayout
from offload.model_sizes import model_sizes
from offload.offloaded_model import OffloadedModel
from offload.plan import Budgets, ModelSizes, Plan, Workload
from offload.planner import make_plan
from offload.positions import check_pieces
from offload.runtime import Runtime, make_kv_levels, make_kv_store
from offload.weights.arena import ResidentArena
from offload.weights.binding import ParameterMap, module_of, tensor_view
from offload.weights.streamer import LayerHooks, WeightStreamer
from offload.weights.types import check_types, stored_dtype
from offload.weights.vocabulary import TieredEmbedding, TieredHead, VocabularySlice, embedding_scale
from simulators.profile import HardwareProfile
from tiers.chunks import Move
from tiers.errors import BudgetError, InvalidOptionError, ModelError
from tiers.link import Priority
from tiers.memory_tier import map_memory
from tiers.tier import SupportsChecksum
from tiers.timeline import Timeline
from tiers.transfer import TransferConfig, TransferEngine
from tiers.weight_tier import WeightGroup, WeightKey, WeightTier

if TYPE_CHECKING:
    from tiers.manager import Level

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Prospect:
    """An opened checkpoint and what the planner needs to know of it; nothing is loaded yet."""

    path: Path
    source: WeightTier
    architecture: Architecture
    dtype: str
    sizes: ModelSizes

    @property
    def config(self) -> PreTrainedConfig:
        return self.architecture.config


def open_prospect(path: Path, dtype: str = "auto", *, experts: str = "auto", block_tokens: int = 64) -> Prospect:
    """Open a checkpoint for planning; the caller closes ``source``. Raises ModelError, InvalidOptionError.

    ``block_tokens`` is the least size of a KV block, in tokens.
    """
    architecture = read_architecture(path)
    source = open_source(path)
    try:
        stored = stored_dtype(source)
        named = str(torch_dtype(stored)).removeprefix("torch.")
        _check_dtype(path, dtype, named)
        _check_experts(path, experts)
        named_config = {**standard_config(architecture.config), "dtype": named}
        sizes = model_sizes(source.groups, named_config, architecture.attention, min_block_tokens=block_tokens)
    except BaseException:
        source.close()
        raise
    return Prospect(path, source, architecture, stored, sizes)


def plan_for(prospect: Prospect, config: RunConfig, workload: Workload, profile: HardwareProfile) -> Plan:
    """The plan for a budget. Raises BudgetError, and InvalidOptionError for a device that is not there."""
    require_device(config.device)
    longest = getattr(prospect.config, "max_position_embeddings", None)
    tokens = workload.prompt_tokens + workload.new_tokens
    if longest is not None and tokens > longest:
        raise InvalidOptionError(
            f"{workload.prompt_tokens} prompt tokens and {workload.new_tokens} new exceed the context of {longest}: "
            f"shorten the prompt to {max(0, longest - workload.new_tokens)} tokens"
        )
    device_bytes = config.device_memory if config.device_memory is not None else available_bytes(config.device)
    nvme_bytes = config.nvme_memory if config.nvme_dir is not None else 0
    budgets = Budgets(device_bytes, config.host_memory, nvme_bytes)
    try:
        return make_plan(prospect.sizes, budgets, workload, profile)
    except BudgetError as error:
        if config.nvme_dir is None:
            message = f"{error} (or name a directory on a drive with --nvme-dir)"
            raise BudgetError(message, wanted_bytes=error.wanted_bytes, available_bytes=error.available_bytes) from None
        raise


def load_model(
    prospect: Prospect,
    plan: Plan,
    config: RunConfig,
    workload: Workload,
    *,
    timeline: Timeline | None = None,
    transfer: TransferConfig | None = None,
    progress: Progress | None = None,
) -> OffloadedModel:
    """Build the model, bring the weights that stay, set up streaming and the KV tiers. On failure nothing is left."""
    chunk = plan.prefill_chunk_tokens if plan.prefill_chunk_tokens < workload.prompt_tokens else None
    check_pieces(prospect.config, workload.prompt_tokens, chunk)
    if plan.streamed or plan.kv_host_blocks or plan.kv_nvme_blocks:
        return_memory_early()
    engine = TransferEngine(transfer or TransferConfig(), timeline)
    layout = _kv_layout(prospect)
    levels: list[Level] = []
    experts: ExpertStore | None = None
    try:
        levels = make_kv_levels(plan, layout, config.nvme_dir, _nvme_blocks(prospect, plan, config, workload))
        model = _build(prospect)
        groups = {group.key.name: group for group in prospect.source.groups}
        resident = [groups[name] for name in dict.fromkeys((*prospect.sizes.rest_names, *plan.resident))]
        arena = ResidentArena("device", [group.nbytes for group in resident])
        streamed = [groups[name] for name in plan.streamed if groups[name].kind != "embedding"]
        streamer = None
        if streamed:
            streamer = WeightStreamer(engine, prospect.source, streamed, max(1, plan.staging_slots))
        routed = [group for group in prospect.source.groups if group.kind == "expert"]
        # Where nothing ever has to leave, the policy that costs least is best.
        policy = config.policy if plan.expert_slots < len(routed) else "lru"
        experts = ExpertStore(engine, prospect.source, routed, plan.expert_slots, policy) if routed else None
        kv = make_kv_store(engine, levels, layout, prospect.sizes.num_layers)
        model.generation_config = _generation_config(prospect.path, model)
        model.runtime = Runtime(plan, engine, prospect.source, arena, streamer, experts, kv, levels, chunk)
        names = CheckpointNames(model)
        check_types(prospect.source, prospect.dtype, model, names)
        bind_experts(model, names, experts, routed)
        _bind(model, prospect, names, arena, resident, streamer)
        _fetch(engine, prospect.source, arena, resident, progress)
        _verify_rows(prospect.source, plan)
        if experts:
            _predict(model, prospect, config, experts, everything_stays=plan.expert_slots == len(routed))
        if streamer:
            streamer.start()
    except BaseException:
        engine.close()
        if experts:
            experts.close()
        for level in levels:
            level.tier.close()
        raise
    return model


def _build(prospect: Prospect) -> OffloadedModel:
    try:
        return build_empty(prospect.config, prospect.architecture.model_class, torch_dtype(prospect.dtype))
    except ModelError as error:
        raise ModelError(f"{prospect.path}: {error}") from None


def _fetch(
    engine: TransferEngine,
    source: WeightTier,
    arena: ResidentArena,
    groups: Sequence[WeightGroup],
    progress: Progress | None,
) -> None:
    """Bring the groups that stay; slot i of the arena is groups[i]."""
    total = sum(group.nbytes for group in groups)
    done = 0
    transfers = [
        engine.submit(source, arena, [Move(source.slot_of(group.key), slot)], Priority.DEMAND)
        for slot, group in enumerate(groups)
    ]
    for transfer, group in zip(transfers, groups, strict=True):
        engine.wait(transfer)
        done += group.nbytes
        if progress:
            progress(done, total)


def _verify_rows(source: WeightTier, plan: Plan) -> None:
    """Check once the slices of which only rows will be read: the checksum of a slice says nothing of a row.

    The memory that it takes is that of a staging slot, in which there is nothing yet. Raises CorruptBlockError.
    """
    if not isinstance(source, SupportsChecksum):
        return
    for group in source.groups:
        if group.kind == "embedding" and group.key.name in plan.streamed:
            source.read(source.slot_of(group.key), memoryview(map_memory("device", group.nbytes)))


def _bind(
    model: OffloadedModel,
    prospect: Prospect,
    names: CheckpointNames,
    arena: ResidentArena,
    resident: Sequence[WeightGroup],
    streamer: WeightStreamer | None,
) -> None:
    """Connect groups with the model: views for what stays, hooks for what is streamed, our own modules at both ends."""
    views = {group.key: arena.view(slot) for slot, group in enumerate(resident)}
    head = [group for group in prospect.source.groups if group.kind == "head"]
    embedding = [group for group in prospect.source.groups if group.kind == "embedding"] or head
    has_bias = getattr(model.get_output_embeddings(), "bias", None) is not None
    scale = embedding_scale(model.get_input_embeddings())
    model.set_output_embeddings(TieredHead(_slices(head, views), streamer, has_bias=has_bias))
    model.set_input_embeddings(TieredEmbedding(prospect.source, _slices(embedding, views), scale))
    ignored = model._keys_to_ignore_on_load_unexpected or ()  # noqa: SLF001 - as transformers itself does
    parameters = ParameterMap(model, model.base_model_prefix, prospect.path, ignored, names.renamed)
    for group in prospect.source.groups:
        if group.kind in ("expert", "head", "embedding"):
            continue
        binding = parameters.bind(group)
        if group.key in views:
            binding.attach(binding.views(views[group.key]))
        else:
            assert streamer is not None, "a layer that does not stay needs a streamer"
            LayerHooks(streamer, binding, module_of(model, group, model.base_model_prefix))
    parameters.check_complete()


def _predict(
    model: OffloadedModel, prospect: Prospect, config: RunConfig, experts: ExpertStore, *, everything_stays: bool
) -> None:
    """Fetch experts ahead, where there is anything to fetch. What is wrong with a predictor is told even then."""
    predictor = make_predictor(
        config.predictor,
        expert_keys(model),
        prospect.sizes.experts_per_layer_and_token,
        gates=lambda: gate_weights(model),
        fingerprint=lambda: model_fingerprint(prospect.path),
    )
    if predictor is not None and not everything_stays:
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


def _slices(groups: Sequence[WeightGroup], views: Mapping[WeightKey, memoryview]) -> list[VocabularySlice]:
    return [
        VocabularySlice(group, tensor_view(views[group.key], group.tensors[0]) if group.key in views else None)
        for group in groups
    ]


def _check_dtype(path: Path, dtype: str, stored: str) -> None:
    if dtype not in ("auto", stored):
        raise InvalidOptionError(
            f"--dtype {dtype}: {path} is stored as {stored} and read in place; "
            f"run 'offload pack {path} OUT --dtype {dtype}' and use OUT"
        )


def _check_experts(path: Path, wanted: str) -> None:
    note = ExpertNote.load(path)
    found = note.precision if note else "stored"
    if wanted not in ("auto", found):
        cure = (
            "use the checkpoint" if wanted == "stored" else f"run 'offload pack MODEL OUT --experts {wanted}', use OUT"
        )
        raise InvalidOptionError(f"--experts {wanted}: {path} keeps its experts in '{found}'; {cure}")


def _kv_layout(prospect: Prospect) -> KVLayout:
    shape = prospect.architecture.attention.kv
    layout = KVLayout(prospect.sizes.kv_block_tokens, shape.heads, shape.key_dim, shape.value_dim, prospect.dtype)
    assert layout.block_nbytes == prospect.sizes.kv_block_nbytes, "planner and layout must agree on the size of a block"
    return layout


def _nvme_blocks(prospect: Prospect, plan: Plan, config: RunConfig, workload: Workload) -> int:
    """Slots of the drive tier: what the plan needs, and as much of the model's whole context as is reasonable.

    A conversation may grow beyond what was planned for, up to the budget or, without one, half of the free space.
    """
    if config.nvme_dir is None or not plan.kv_nvme_blocks:
        return 0
    block = plan.kv_block_nbytes
    longest = getattr(prospect.config, "max_position_embeddings", 0)
    rows = workload.batch * prospect.sizes.num_layers
    wanted = max(plan.kv_nvme_blocks, rows * -(-longest // prospect.sizes.kv_block_tokens))
    if config.nvme_memory is not None:
        return max(plan.kv_nvme_blocks, min(wanted, config.nvme_memory // block))
    parent = next(path for path in (config.nvme_dir, *config.nvme_dir.resolve().parents) if path.exists())
    return max(plan.kv_nvme_blocks, min(wanted, shutil.disk_usage(parent).free // 2 // block))
