"""What a plan costs in bytes and seconds. Every formula that the planner uses, one short function each.

Time follows the roofline: a step takes as long as its slowest resource. The drive and the arithmetic overlap when there
are two staging slots or more; with one they take turns. Fewer than three slots leave the drive idle at every hand-over,
because the next read can only start once a slot is free, which ``HAND_OVER`` allows for. Nothing overlaps perfectly:
``OVERLAP_LOSS`` is the part of the reads that shows in any case, so that of two plans bound by arithmetic the one that
reads less is the better.
"""

from dataclasses import dataclass
from typing import Literal

from offload.plan import Bottleneck, Budgets, ModelSizes, Workload
from offload.plan_compute import compute_step_s, lost_share
from simulators.profile import HardwareProfile
from tiers.tier import align_up

HAND_OVER = {0: 1.0, 1: 1.5, 2: 1.1, 3: 1.0}
"""Staging slots -> factor on the time of reads. An allowance: it makes the third slot worth one layer in eleven."""

OVERLAP_LOSS = 0.01

_WINDOW_BLOCKS = 8


@dataclass(frozen=True, slots=True)
class KVNeed:
    """KV blocks of a workload: at its end, at its mean context, being written, and the window to stream the rest."""

    total: int
    mean: int
    tails: int
    window: int


def kv_need(sizes: ModelSizes, workload: Workload) -> KVNeed:
    """Blocks are per layer and sequence, so each layer of each sequence has one tail that is not full yet."""
    tails = sizes.num_layers * workload.batch
    per_tail = _blocks(sizes, workload.context_tokens)
    return KVNeed(
        total=tails * per_tail,
        mean=tails * _blocks(sizes, mean_context(workload)),
        tails=tails,
        # Two layers' worth of blocks that are not tails: one that is being read while the other is attended to.
        window=min(_WINDOW_BLOCKS, 2 * workload.batch * (per_tail - 1)),
    )


@dataclass(frozen=True, slots=True)
class Room:
    """KV blocks that host and drive can take, and those that stay on the device: being written, or homeless."""

    least_resident: int
    host: int
    nvme: int


def kv_room(need: KVNeed, budgets: Budgets, block_nbytes: int) -> Room:
    """``nvme`` is never more than the workload needs."""
    host = min(need.total, (budgets.host_bytes or 0) // block_nbytes)
    nvme = need.total if budgets.nvme_bytes is None else min(need.total, budgets.nvme_bytes // block_nbytes)
    return Room(max(need.tails, need.total - host - nvme), host, nvme)


def mean_context(workload: Workload) -> int:
    """Tokens of a sequence half way through its decoding."""
    return workload.prompt_tokens + -(-workload.new_tokens // 2)


def workspace_nbytes(sizes: ModelSizes, workload: Workload, chunk_tokens: int) -> int:
    """Activations of a prefill chunk of every sequence, the logits, and what is set aside once."""
    per_sequence = sizes.workspace_nbytes_per_token * chunk_tokens + sizes.workspace_nbytes_fixed
    return align_up(workload.batch * per_sequence + sizes.workspace_nbytes_once)


def least_expert_slots(sizes: ModelSizes) -> int:
    """What one token visits in one layer."""
    return min(sizes.num_experts, sizes.experts_per_layer_and_token)


def experts_visited(sizes: ModelSizes, workload: Workload) -> int:
    """Experts of all layers that a decode step takes at most."""
    return min(sizes.num_experts, workload.batch * sizes.experts_per_token)


def rest_nbytes(sizes: ModelSizes) -> int:
    """What stays on the device in every plan."""
    return align_up(sizes.rest_nbytes)


def num_chunks(workload: Workload, chunk_tokens: int) -> int:
    """Passes over the weights that prefill takes."""
    return -(-workload.prompt_tokens // chunk_tokens)


@dataclass(frozen=True, slots=True)
class Missed:
    """Bytes and blocks that one step finds elsewhere than on the device, blocks at the mean context."""

    layer_nbytes: int
    head_nbytes: int
    embedding: bool
    kv_nvme_blocks: int
    kv_host_blocks: int
    expert_nbytes: int = 0
    """Of a decode step."""
    expert_chunk_nbytes: int = 0
    """Of a chunk of the prompt."""
    host_share: float = 0.0
    """Of the layers and slices of the head that the host keeps a copy of."""
    expert_host_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of one model and workload on one machine."""

    sizes: ModelSizes
    workload: Workload
    profile: HardwareProfile

    @property
    def weight_read_s(self) -> float:
        """Seconds per byte of a weight group from the drive: as it comes through the engine where that was measured."""
        runtime = self.profile.runtime
        if runtime is not None and runtime.stream_bytes_per_s:
            return 1 / runtime.stream_bytes_per_s
        return 1 / self.profile.bytes_per_s("nvme->device", self.sizes.slot_nbytes)

    def kv_move_s(self, link: str) -> float:
        """Seconds per KV block over a link; none over one that the machine does not have."""
        block = self.sizes.kv_block_nbytes
        if link not in self.profile.links:
            return 0.0
        return block / self.profile.bytes_per_s(link, block)

    @property
    def compute_step_s(self) -> float:
        """One decode step of which nothing is missed, at the mean context."""
        return compute_step_s(self.sizes, self.workload, self.profile, mean_context(self.workload))

    @property
    def lost_share(self) -> float:
        """Seconds of a step's computing that a second of reading from the drive costs besides."""
        return lost_share(self.profile, self.sizes.slot_nbytes, self.weight_read_s)

    def compute_prefill_s(self, chunks: int) -> float:
        """Prefill: every chunk passes through the layers, and only the last token through the head.

        A sum, not a maximum: a product of many rows first reads its weights and then reuses them, so that many small
        chunks are slower than a few large ones.
        """
        layers, heads = sum(self.sizes.layer_nbytes), sum(self.sizes.head_nbytes)
        tokens = self.workload.prompt_tokens
        per_token = self.sizes.flops_per_token * layers / max(1, layers + heads)
        flops = self.workload.batch * tokens * (per_token + self.sizes.attention_flops_per_pair * tokens / 2)
        return flops / self._flops_per_s + (chunks * layers + heads) / self.profile.memory_bytes_per_s

    def embedding_rows_s(self, tokens: int) -> float:
        """Reading the embedding's rows one by one, known only when the step before has ended: nothing hides it."""
        row = align_up(self.sizes.embedding_row_nbytes)
        rate = self.profile.bytes_per_s("nvme->device", row)
        return self.profile.links["nvme->device"].latency_s + self.workload.batch * tokens * row / rate

    def kv_prefill_s(self, tier: Literal["host", "nvme"], chunks: int) -> float:
        """One KV block that is not on the device: written once, and read by each of the chunks after its own."""
        return self.kv_move_s(f"device->{tier}") + (chunks - 1) / 2 * self.kv_move_s(f"{tier}->device")

    def step_s(self, slots: int, missed: Missed) -> tuple[float, Bottleneck]:
        """One decode step and the resource that bounds it."""
        near, far = self.weights_s(missed.layer_nbytes + missed.head_nbytes, missed.expert_nbytes, missed)
        drive = HAND_OVER[slots] * (far + missed.kv_nvme_blocks * self.kv_move_s("nvme->device"))
        host = HAND_OVER[slots] * near + missed.kv_host_blocks * self.kv_move_s("host->device")
        parts: dict[Bottleneck, float] = {"compute": self.compute_step_s, "nvme->device": drive, "host->device": host}
        rows = self.embedding_rows_s(1) if missed.embedding else 0.0
        compute_s = self.compute_step_s + self.lost_share * drive
        return _together(compute_s, drive, host, slots) + rows, max(parts, key=parts.__getitem__)

    def prefill_s(self, slots: int, chunks: int, missed: Missed) -> float:
        """The prompt: weights that miss are read once a chunk, KV blocks that miss are written and read again."""
        dense_nbytes = chunks * missed.layer_nbytes + missed.head_nbytes
        near, far = self.weights_s(dense_nbytes, chunks * missed.expert_chunk_nbytes, missed)
        drive = HAND_OVER[slots] * (far + missed.kv_nvme_blocks * self.kv_prefill_s("nvme", chunks))
        host = HAND_OVER[slots] * near + missed.kv_host_blocks * self.kv_prefill_s("host", chunks)
        rows = self.embedding_rows_s(self.workload.prompt_tokens) if missed.embedding else 0.0
        return _together(self.compute_prefill_s(chunks), drive, host, slots) + rows

    def weights_s(self, dense_nbytes: int, expert_nbytes: int, missed: Missed) -> tuple[float, float]:
        """Seconds for so many bytes of weights: what the host's copies take, and what the drive takes."""
        near = missed.host_share * dense_nbytes + missed.expert_host_share * expert_nbytes
        host_s = near / self.profile.bytes_per_s("host->device", self.sizes.slot_nbytes) if near else 0.0
        return host_s, (dense_nbytes + expert_nbytes - near) * self.weight_read_s

    @property
    def _flops_per_s(self) -> float:
        return self.profile.flops_per_s(self.sizes.dtype)


def _together(compute: float, drive: float, host: float, slots: int) -> float:
    longest = compute + max(drive, host) if slots == 1 else max(compute, drive, host)
    return longest + OVERLAP_LOSS * (drive + host)


def _blocks(sizes: ModelSizes, tokens: int) -> int:
    return -(-tokens // sizes.kv_block_tokens)
