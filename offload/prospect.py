"""An opened checkpoint, and the plan for it within a budget: all that happens before anything is loaded."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from transformers import PreTrainedConfig

from offload.architecture import Architecture, read_architecture, standard_config
from offload.budgets import budgets_here, budgets_on
from offload.checkpoint.source import open_source
from offload.config import RunConfig
from offload.device import available_bytes, is_gpu
from offload.dtypes import torch_dtype
from offload.experts.note import ExpertNote
from offload.experts.packed.check import check_packed
from offload.graphs.backend import SET_ASIDE_NBYTES
from offload.kv.cache import layer_windows
from offload.kv.input_shape import input_shape
from offload.model_sizes import model_sizes
from offload.plan import ModelSizes, Plan, Workload
from offload.plan_experts import recorded_use
from offload.planner import make_plan
from offload.positions import Positions, longest_context
from offload.weights.types import stored_dtype
from simulators.expert_trace import ExpertTrace
from simulators.profile import HardwareProfile
from tiers.errors import BudgetError, InvalidOptionError, ModelError
from tiers.weight_tier import WeightTier


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


_ANYTHING = RunConfig()


def open_prospect(
    path: Path, config: RunConfig = _ANYTHING, *, context_tokens: int = 0, block_tokens: int | None = None
) -> Prospect:
    """Open a checkpoint for planning; the caller closes ``source``. Raises ModelError, InvalidOptionError.

    Of ``config`` only the device and what the model must be stored in count. ``block_tokens`` is the least size of a KV
    block, in tokens; if not given, what suits the device and sequences of ``context_tokens``.
    """
    architecture = read_architecture(path)
    source = open_source(path)
    try:
        stored = stored_dtype(source)
        named = str(torch_dtype(stored)).removeprefix("torch.")
        _check_dtype(path, config.dtype, named)
        _check_experts(path, config.experts)
        named_config = {**standard_config(architecture.config), "dtype": named}
        tokens = block_tokens or _block_tokens(config.device, context_tokens)
        sizes = model_sizes(source.groups, named_config, architecture.attention, min_block_tokens=tokens)
    except BaseException:
        source.close()
        raise
    return Prospect(path, source, architecture, stored, sizes)


def _block_tokens(device: str, context_tokens: int) -> int:
    """A GPU fetches and attends faster than its host keeps books: there, a sixteenth of a sequence, up to 1,024."""
    if not is_gpu(device):
        return 64
    return min(1024, max(64, 1 << max(0, context_tokens // 16 - 1).bit_length()))


def plan_for(
    prospect: Prospect,
    config: RunConfig,
    workload: Workload,
    profile: HardwareProfile,
    *,
    elsewhere: bool = False,
    trace: ExpertTrace | None = None,
) -> Plan:
    """The plan for a budget. ``elsewhere``: for the machine of ``profile``, which need not be this one.

    A ``trace`` of the model's routing says what to expect of its experts. Raises BudgetError, InvalidOptionError for a
    device that is not there, that cannot compute what the store keeps, or a budget that it has no use for, and
    TraceError for a trace of another model.
    """
    budgets = budgets_on(config, profile) if elsewhere else budgets_here(config)
    if not elsewhere:
        dtype, uses_low = torch_dtype(prospect.dtype), config.miss_precision != "high"
        check_packed(prospect.path, prospect.source.groups, config.device, dtype, uses_low_copies=uses_low)
    longest = longest_context(prospect.config)
    tokens = workload.context_tokens
    if longest is not None and tokens > longest:
        raise InvalidOptionError(
            f"{workload.prompt_tokens} prompt tokens and {workload.new_tokens} new exceed the context of {longest}: "
            f"shorten the prompt to {max(0, longest - workload.new_tokens)} tokens, as --prompt-tokens does"
        )
    positions = Positions.of(prospect.config, prospect.architecture.model_class)
    workload = replace(workload, uncut_tokens=positions.uncut_tokens(workload.prompt_tokens, workload.new_tokens))
    sizes = _sizes_beside_drives(prospect, workload, config) if config.csd else prospect.sizes
    if config.cuda_graphs:
        sizes = replace(sizes, workspace_nbytes_once=sizes.workspace_nbytes_once + SET_ASIDE_NBYTES)
    newest_nbytes = _newest_nbytes(prospect, sizes, workload, config, budgets.host_bytes)
    newest_tier: Literal["device", "host"] = "device" if budgets.host_bytes is None else "host"
    if budgets.host_bytes is not None:
        budgets = replace(budgets, host_bytes=budgets.host_bytes - newest_nbytes)
    else:  # of the one memory that there is
        sizes = replace(sizes, workspace_nbytes_once=sizes.workspace_nbytes_once + newest_nbytes)
    try:
        foresee = None if trace is None else recorded_use(sizes, workload, trace, config.policy)
        plan = make_plan(sizes, budgets, workload, profile, foresee=foresee)
        beside = replace(plan, newest_nbytes=newest_nbytes, newest_tier=newest_tier)
        return replace(beside, is_beside_drives=config.csd > 0)
    except BudgetError as error:
        if config.nvme_dir is None and budgets.nvme_bytes == 0:
            message = f"{error} (or name a directory on a drive with --nvme-dir)"
            raise BudgetError(message, wanted_bytes=error.wanted_bytes, available_bytes=error.available_bytes) from None
        raise


def _sizes_beside_drives(prospect: Prospect, workload: Workload, config: RunConfig) -> ModelSizes:
    """Of layers whose keys and values go to computational drives, none are left to place; raises ModelError.

    What comes back of one layer counts as activations: of a prompt in pieces all of it, and inputs with what their
    projection makes of them. It comes sequence by sequence, so that there is never more than that of one.
    """
    shape = prospect.architecture.attention
    if shape.latent or shape.kv.key_dim != shape.kv.value_dim:
        raise ModelError(
            f"{prospect.path}: caches keys and values of different widths, or latents; a computational drive attends "
            "to keys and values of one width; run it without --csd"
        )
    windows = layer_windows(prospect.config)
    sliding = [window for window in windows if window is not None]
    if len(sliding) == len(windows):
        raise ModelError(
            f"{prospect.path}: every layer has a sliding window of {max(sliding)} tokens, which stays on the device; "
            "a computational drive has nothing to keep; run it without --csd"
        )
    sizes = prospect.sizes
    back = sizes.kv_nbytes_per_token_layer * workload.prompt_tokens
    if config.x_cache:
        numbers = input_shape(prospect.config, shape).width + shape.activations
        itemsize = sizes.kv_nbytes_per_token_layer // shape.kv.values_per_token
        back += int(config.x_cache * workload.context_tokens * numbers * itemsize)
    return replace(sizes, num_layers=len(sliding), workspace_nbytes_once=back)


def _newest_nbytes(
    prospect: Prospect, beside: ModelSizes, workload: Workload, config: RunConfig, host_bytes: int | None
) -> int:
    """What the newest tokens of the layers in drives take of the host's memory; raises BudgetError, ModelError.

    ``beside``: the model without those layers.
    """
    whole, attention = prospect.sizes, prospect.architecture.attention
    of_token = whole.kv_nbytes_per_token_layer
    if config.x_cache:
        width = input_shape(prospect.config, attention).width
        of_token += width * of_token // attention.kv.values_per_token
    wanted = config.write_back * workload.batch * (whole.num_layers - beside.num_layers) * of_token
    available = available_bytes("cpu") if host_bytes is None else host_bytes
    if wanted > available:
        raise BudgetError(
            f"--write-back {config.write_back} keeps {wanted:,} bytes of newest keys and values in the host, which may "
            f"have {available:,}; raise --host-memory or write fewer tokens at a time",
            wanted_bytes=wanted,
            available_bytes=available,
        )
    return wanted


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
