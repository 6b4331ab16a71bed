"""What a generation is made of: a model in weight groups, where a plan has put them, and what is asked of it."""

from collections.abc import Sequence
from dataclasses import dataclass

from tiers.block import BlockKey, ExpertKey
from tiers.tier import Extent


@dataclass(frozen=True, slots=True)
class GroupShape:
    """Weights that are used together. ``products`` are the bytes of the matrices that each token is multiplied by."""

    key: BlockKey
    products: tuple[int, ...]
    extents: tuple[Extent, ...]
    """Where it lies on the drive."""
    is_streamed: bool = False


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """Of one layer; ``token_nbytes`` are those of the keys and values of one token."""

    kv_heads: int
    token_nbytes: int
    flops_per_pair: float
    """For one query token against one earlier token."""
    window: int | None = None


@dataclass(frozen=True, slots=True)
class LayerShape:
    """A decoder layer. ``experts`` are the keys of its routed experts, by their number; empty without any."""

    group: GroupShape
    attention: AttentionShape
    experts: tuple[ExpertKey, ...] = ()
    activation_nbytes: int = 0
    """Of what all its products give for one token."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """``head`` are the slices of the output projection in the order of their use."""

    dtype: str
    layers: tuple[LayerShape, ...]
    head: tuple[GroupShape, ...]
    experts: tuple[GroupShape, ...] = ()
    """All routed experts, in the order in which the runtime adopts them."""
    embedding_row: int = 0
    """Bytes that are read for a row of the input embedding where that stays on the drive, else 0."""


@dataclass(frozen=True, slots=True)
class DriveCosts:
    """Seconds of computational drives that keep the KV cache of all layers without a window, all rows together."""

    write_s: float
    """Of a token in one layer of the prompt; the drives write while the model computes."""
    read_s: float
    """Of a token in one layer that a further piece of the prompt asks back."""
    attend_s: float
    """Of one layer of a decode step at the mean context: they grow evenly, so that the mean stands for all."""


@dataclass(frozen=True, slots=True)
class PlacementShape:
    """Slots and blocks as the planner has set them; see ``offload.plan.Plan``."""

    streamed: tuple[BlockKey, ...]
    """Weight groups in the order of their use."""
    staging_slots: int
    slot_nbytes: int
    kv_block_tokens: int
    kv_block_nbytes: int
    kv_device_blocks: int
    kv_host_blocks: int = 0
    kv_nvme_blocks: int = 0
    kv_policy: str = "spaced"
    expert_slots: int = 0
    expert_slot_nbytes: int = 0
    prefill_chunk_tokens: int | None = None
    """None where a prompt is taken in one piece."""
    drives: DriveCosts | None = None
    """None where keys and values are in these tiers."""


@dataclass(frozen=True, slots=True)
class WorkShape:
    """``batch`` sequences of ``prompt_tokens`` side by side, each continued by ``new_tokens``."""

    prompt_tokens: int
    new_tokens: int
    batch: int = 1

    def passes(self, chunk_tokens: int | None) -> Sequence[int]:
        """New tokens of each sequence in every forward pass: the prompt in pieces, then one by one."""
        chunk = chunk_tokens or self.prompt_tokens
        pieces = [min(chunk, self.prompt_tokens - first) for first in range(0, self.prompt_tokens, chunk)]
        return (*pieces, *(1 for _ in range(self.new_tokens - 1)))
