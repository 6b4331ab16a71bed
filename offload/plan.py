"""What the planner is told and what it answers. Values only."""

from dataclasses import dataclass
from typing import Literal

from offload.sizes import format_size
from tiers.errors import InvalidOptionError
from tiers.tier import align_up

Bottleneck = Literal["compute", "nvme->device", "host->device"]

RoutingBasis = Literal["typical", "recorded"]
"""What a plan for a mixture of experts takes its hits from: routing as that of other models, or a trace of this one."""


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """What a model weighs, in bytes, and what a token costs.

    ``layer_nbytes`` and ``head_nbytes`` are the weight groups that can be streamed, in the order of their use. ``rest``
    always stays on the device; ``num_layers`` counts the layers with a KV cache in these tiers. The input embedding may
    stay; if it does not, its rows are read one by one. When ``tied``, the slices of the head are the embedding and
    ``embedding_nbytes`` is not counted.
    """

    layer_nbytes: tuple[int, ...]
    head_nbytes: tuple[int, ...]
    embedding_nbytes: int
    rest_nbytes: int
    tied: bool
    kv_nbytes_per_token_layer: int
    num_layers: int
    kv_block_tokens: int
    flops_per_token: float
    # Activations of one token of a prefill chunk, of one sequence of the batch whatever the chunk (its logits), and of
    # no matter how many sequences.
    workspace_nbytes_per_token: int
    workspace_nbytes_fixed: int
    workspace_nbytes_once: int = 0
    dtype: str = "float32"
    # FLOPs in all layers for one query token against one earlier token.
    attention_flops_per_pair: float = 0.0
    embedding_row_nbytes: int = 0
    # Routed experts: all of them, those that one token visits in all layers, and in one. None of their bytes is counted
    # with the layers.
    num_experts: int = 0
    experts_per_token: int = 0
    experts_per_layer_and_token: int = 0
    expert_nbytes: int = 0
    # What a token is multiplied by: bytes of a matrix, and how many of that size all layers have together; the matrices
    # of one expert; heads of keys and values. Without them a layer counts as one matrix.
    layer_matrices: tuple[tuple[int, int], ...] = ()
    expert_matrices: tuple[int, ...] = ()
    layer_activations: tuple[tuple[int, int], ...] = ()
    """Bytes of what the products of a layer give for one token, and how many layers give as many."""
    kv_heads: int = 1
    num_sparse_layers: int = 0
    layer_names: tuple[str, ...] = ()
    head_names: tuple[str, ...] = ()
    embedding_names: tuple[str, ...] = ("embedding.0",)
    rest_names: tuple[str, ...] = ("rest",)

    @property
    def streamable(self) -> tuple[tuple[str, int], ...]:
        """Name and size on the device of every group that a staging slot can hold, in the order of their use."""
        layers = self.layer_names or tuple(f"layers.{i}" for i in range(len(self.layer_nbytes)))
        heads = self.head_names or tuple(f"head.{i}" for i in range(len(self.head_nbytes)))
        sizes = (align_up(nbytes) for nbytes in self.layer_nbytes + self.head_nbytes)
        return tuple(zip(layers + heads, sizes, strict=True))

    @property
    def slot_nbytes(self) -> int:
        """A staging slot holds any one layer or slice of the head."""
        return max(nbytes for _, nbytes in self.streamable)

    @property
    def expert_slot_nbytes(self) -> int:
        """A slot of the device's cache of experts holds any one of them."""
        return align_up(self.expert_nbytes)

    @property
    def kv_block_nbytes(self) -> int:
        """Keys and values of ``kv_block_tokens`` tokens of one sequence in one layer."""
        return align_up(self.kv_nbytes_per_token_layer * self.kv_block_tokens)

    @property
    def resident_embedding_nbytes(self) -> int:
        """What keeping the input embedding costs; nothing when it is the head."""
        return 0 if self.tied else align_up(self.embedding_nbytes)


@dataclass(frozen=True, slots=True)
class Budgets:
    """Bytes that may be used of each tier. ``device_bytes=None`` sets no bound: the caller says what is available.

    ``host_bytes=None`` means no host tier, ``nvme_bytes=None`` as much of the drive as it takes. ``host_is_apart`` says
    that the device has a memory of its own, so that weights are worth keeping in the host's. Raises InvalidOptionError
    on a negative size.
    """

    device_bytes: int | None = None
    host_bytes: int | None = None
    nvme_bytes: int | None = None
    host_is_apart: bool = False

    def __post_init__(self) -> None:
        for option, nbytes in (
            ("--device-memory", self.device_bytes),
            ("--host-memory", self.host_bytes),
            ("--nvme-memory", self.nvme_bytes),
        ):
            if nbytes is not None and nbytes < 0:
                raise InvalidOptionError(f"{option} {nbytes}: a size cannot be negative; write for example 8GiB")


@dataclass(frozen=True, slots=True)
class Workload:
    """``batch`` sequences side by side, each of ``prompt_tokens``, each continued by ``new_tokens``.

    ``uncut_tokens`` of a sequence have to be taken at once, whatever memory there is (see ``Positions``).
    """

    batch: int
    prompt_tokens: int
    new_tokens: int
    uncut_tokens: int = 0

    def __post_init__(self) -> None:
        for what, value, least in (
            ("batch", self.batch, 1),
            ("prompt tokens", self.prompt_tokens, 1),
            ("new tokens", self.new_tokens, 0),
        ):
            if value < least:
                raise InvalidOptionError(f"{what} {value}: must be at least {least}")

    @property
    def context_tokens(self) -> int:
        """Of a sequence at its end."""
        return self.prompt_tokens + self.new_tokens


@dataclass(frozen=True, slots=True)
class Plan:
    """What sits where, and how fast that should be.

    ``resident`` and ``streamed`` name weight groups; ``in_host`` those of the streamed ones of which the host keeps a
    copy, and ``host_experts`` counts the experts of which it does. Keys and values on their way to computational drives
    have ``newest_nbytes`` of ``newest_tier``: of the host or, without a budget of its own, of the device's workspace.
    ``kv_device_blocks`` counts the blocks that stay and the window through which the others stream, ``kv_host_blocks``
    those that live in the host and as many more as come ahead of need, ``kv_nvme_blocks`` those that fit neither device
    nor host at the end of the run. Missed bytes are those of one decode step at the mean context.
    ``expert_hit_ratio`` is the share of the visited experts that such a step finds on the device, by ``routing``; None
    without experts, or where all of them stay. ``predicted_tokens_per_s`` counts the whole batch;
    ``even_tokens_per_s`` is the same were all experts equally likely, and both leave out what computational drives take
    where ``is_beside_drives``.
    """

    resident: tuple[str, ...]
    streamed: tuple[str, ...]
    resident_nbytes: int
    streamed_nbytes: int
    staging_slots: int
    slot_nbytes: int
    kv_block_nbytes: int
    kv_device_blocks: int
    kv_host_blocks: int
    kv_nvme_blocks: int
    prefill_chunk_tokens: int
    workspace_bytes: int
    device_bytes_used: int
    predicted_tokens_per_s: float
    predicted_prefill_s: float
    predicted_total_s: float
    bottleneck: Bottleneck
    missed_weight_bytes_per_token: int
    missed_kv_bytes_per_token: int
    expert_slots: int = 0
    expert_slot_nbytes: int = 0
    missed_expert_bytes_per_token: int = 0
    expert_hit_ratio: float | None = None
    routing: RoutingBasis = "typical"
    even_tokens_per_s: float | None = None
    is_beside_drives: bool = False
    in_host: tuple[str, ...] = ()
    host_experts: int = 0
    newest_nbytes: int = 0
    newest_tier: Literal["device", "host"] = "host"

    def __str__(self) -> str:
        """One line for people: the fields that matter most. ``placement`` has all of it."""
        on_device, streamed = format_size(self.device_bytes_used), format_size(self.streamed_nbytes)
        speed = f"predicted {self.predicted_tokens_per_s:.1f} tokens/s"
        if self.is_beside_drives:
            speed += " without what the computational drives take, which 'offload plan' with the same options tries"
        elif self.expert_hit_ratio is not None:
            speed += f" if {self.expert_hit_ratio:.0%} of the visited experts are there"
        return f"{on_device} on the device, {streamed} of weights streamed; {speed}, bound by {self.bottleneck}"

    @property
    def host_weight_nbytes(self) -> int:
        """What copies of weights take of the host's memory."""
        return len(self.in_host) * self.slot_nbytes + self.host_experts * self.expert_slot_nbytes

    @property
    def host_newest_nbytes(self) -> int:
        """What tokens on their way to drives take beside the device's budget."""
        return self.newest_nbytes if self.newest_tier == "host" else 0

    @property
    def expectation(self) -> dict[str, object] | None:
        """What the prediction for a mixture of experts stands on, ready for JSON; None where nothing depends on it."""
        if self.expert_hit_ratio is None:
            return None
        return {
            "routing": self.routing,
            "hit_ratio": self.expert_hit_ratio,
            "even_tokens_per_s": self.even_tokens_per_s,
        }

    def placement(self) -> dict[str, dict[str, object]]:
        """What each tier holds, ready for JSON."""
        block = self.kv_block_nbytes
        return {
            "device": {
                "bytes": self.device_bytes_used,
                "weight_bytes": self.resident_nbytes,
                "weight_groups": list(self.resident),
                "staging_bytes": self.staging_slots * self.slot_nbytes,
                "staging_slots": self.staging_slots,
                "expert_bytes": self.expert_slots * self.expert_slot_nbytes,
                "expert_slots": self.expert_slots,
                "kv_blocks": self.kv_device_blocks,
                "kv_bytes": self.kv_device_blocks * block,
                "workspace_bytes": self.workspace_bytes,
            },
            "host": {
                "bytes": self.kv_host_blocks * block + self.host_weight_nbytes + self.host_newest_nbytes,
                "weight_groups": list(self.in_host),
                "experts": self.host_experts,
                "kv_blocks": self.kv_host_blocks,
                "kv_bytes": self.kv_host_blocks * block + self.host_newest_nbytes,
                "newest_kv_bytes": self.host_newest_nbytes,
            },
            "nvme": {
                "bytes": self.streamed_nbytes + self.kv_nvme_blocks * block,
                "weight_bytes": self.streamed_nbytes,
                "weight_groups": list(self.streamed),
                "kv_blocks": self.kv_nvme_blocks,
                "kv_bytes": self.kv_nvme_blocks * block,
            },
        }
