"""What a plan costs in bytes and seconds. Every formula that the planner uses, one short function each.

Time follows the roofline: a step takes as long as its slowest resource. The drive and the arithmetic overlap when there
are two staging slots or more; with one they take turns. Fewer than three slots leave the drive idle at every hand-over,
because the next read can only start once a slot is free, which ``HAND_OVER`` allows for. Nothing overlaps perfectly:
``OVERLAP_LOSS`` is the part of the reads that shows in any case, so that of two plans bound by arithmetic the one that
reads less is the better.
"""

from dataclasses import dataclass, field
from typing import Literal

from offload.plan import Bottleneck, Budgets, ModelSizes, Workload
from offload.plan_compute import compute_prefill_s, compute_step_s, lost_share, one_expert_s
from offload.plan_experts import ExpertUse, missing_s
from offload.plan_kv import KVNeed, mean_context, visits_s
from simulators.generation_costs import GenerationCosts
from simulators.profile import HardwareProfile
from tiers.tier import align_up

HAND_OVER = {0: 1.0, 1: 1.5, 2: 1.1, 3: 1.0}
"""Staging slots -> factor on the time of reads. An allowance: it makes the third slot worth one layer in eleven."""

OVERLAP_LOSS = 0.01


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


def workspace_nbytes(sizes: ModelSizes, workload: Workload, chunk_tokens: int) -> int:
    """Activations of a prefill chunk of every sequence, the logits, and what is set aside once."""
    per_sequence = sizes.workspace_nbytes_per_token * chunk_tokens + sizes.workspace_nbytes_fixed
    return align_up(workload.batch * per_sequence + sizes.workspace_nbytes_once)


def least_chunk(sizes: ModelSizes, workload: Workload) -> int:
    """The smallest prefill chunk: one KV block, or what has to be taken at once."""
    return align_up(max(1, workload.uncut_tokens), sizes.kv_block_tokens)


def least_expert_slots(sizes: ModelSizes) -> int:
    """What one token visits in one layer."""
    return min(sizes.num_experts, sizes.experts_per_layer_and_token)


def expert_prefill_nbytes(sizes: ModelSizes, workload: Workload, slots: int, chunk_tokens: int) -> int:
    """Experts that a prompt fetches: at first none is there, and each further chunk needs those that did not stay."""
    if not sizes.num_experts or slots >= sizes.num_experts:
        return 0
    chunks = num_chunks(workload, chunk_tokens)
    unvisited = 1 - sizes.experts_per_token / sizes.num_experts
    tokens = workload.batch * min(chunk_tokens, workload.prompt_tokens)
    visited = round(sizes.num_experts * (1 - unvisited**tokens))
    return (visited + (chunks - 1) * max(0, visited - slots)) * sizes.expert_nbytes


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
    kv_nvme_extra: float = 0.0
    """Blocks that come from the drive in a decode step since others had pushed them out; those from the host below."""
    kv_host_extra: float = 0.0
    kv_streams: bool = False
    """Whether any block ever leaves the device: then all are looked up, and visited run by run."""
    experts: ExpertUse | None = None
    """Of a decode step; None where all of them stay."""
    expert_prefill_nbytes: int = 0
    """Of the whole prompt."""
    host_share: float = 0.0
    """Of the layers and slices of the head that the host keeps a copy of."""
    expert_host_share: float = 0.0

    @property
    def kv_nvme_moves(self) -> float:
        """Blocks that come from the drive in a decode step."""
        return self.kv_nvme_blocks + self.kv_nvme_extra

    @property
    def kv_host_moves(self) -> float:
        """The same from the host."""
        return self.kv_host_blocks + self.kv_host_extra


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of one model and workload on one machine."""

    sizes: ModelSizes
    workload: Workload
    profile: HardwareProfile
    compute_step_s: float = field(init=False)
    """One decode step of which nothing is missed, at the mean context."""

    def __post_init__(self) -> None:
        step_s = compute_step_s(self.sizes, self.workload, self.parts, mean_context(self.workload))
        object.__setattr__(self, "compute_step_s", step_s)

    @property
    def parts(self) -> GenerationCosts:
        """Of single products, visits and moves."""
        return GenerationCosts(self.profile, self.sizes.dtype)

    @property
    def weight_read_s(self) -> float:
        """Seconds per byte of a weight group from the drive: as it comes through the engine where that was measured."""
        runtime = self.profile.runtime
        if runtime is not None and runtime.stream_bytes_per_s:
            return 1 / runtime.stream_bytes_per_s
        return 1 / self.profile.bytes_per_s("nvme->device", self.sizes.slot_nbytes)

    def kv_move_s(self, link: str) -> float:
        """Seconds per KV block over a link; none over one that the machine does not have.

        Checksums are taken by the thread of the link while the next blocks come.
        """
        if link not in self.profile.links:
            return 0.0
        block, queue = self.sizes.kv_block_nbytes, self.parts.links(is_checked=True)[link]
        return max(block / queue.bytes_per_s(block), queue.request_s + block * queue.byte_s)

    def kv_work_s(self, link: str) -> float:
        """Seconds that the model loses for a KV block that comes over a link, besides waiting for it."""
        if self.profile.runtime is None:
            return 0.0
        slower_s = (1 - self.profile.runtime.busy_share) * self.kv_move_s(link)
        return slower_s + self.parts.kv_moved_s(link, self.sizes.kv_block_nbytes)

    @property
    def kv_visits_s(self) -> float:
        """Seconds of a pass for finding its KV blocks where some of them come and go."""
        return visits_s(self.sizes, self.workload, self.parts)

    @property
    def lost_share(self) -> float:
        """Seconds of a pass's computing that a second of reading weights from the drive costs besides."""
        return lost_share(self.profile, self.sizes.slot_nbytes, self.weight_read_s)

    def compute_prefill_s(self, chunk_tokens: int) -> tuple[float, float]:
        """Prefill of which nothing is missed, but for experts; and these. See ``plan_compute``."""
        return compute_prefill_s(self.sizes, self.workload, self.parts, chunk_tokens)

    def embedding_rows_s(self, tokens: int) -> float:
        """Reading the embedding's rows one by one, known only when the step before has ended: nothing hides it."""
        row = align_up(self.sizes.embedding_row_nbytes)
        rate = self.profile.bytes_per_s("nvme->device", row)
        return self.profile.links["nvme->device"].latency_s + self.workload.batch * tokens * row / rate

    def kv_prefill_s(self, tier: Literal["host", "nvme"], chunks: int) -> float:
        """One KV block that is not on the device: written once, and read by each of the chunks after its own."""
        return self.kv_move_s(f"device->{tier}") + (chunks - 1) / 2 * self.kv_move_s(f"{tier}->device")

    def kv_prefill_work_s(self, tier: Literal["host", "nvme"], chunks: int) -> float:
        """What the model loses for it."""
        return self.kv_work_s(f"device->{tier}") + (chunks - 1) / 2 * self.kv_work_s(f"{tier}->device")

    def step_s(self, slots: int, missed: Missed) -> tuple[float, Bottleneck]:
        """One decode step and the resource that bounds it."""
        near, far = self.weights_s(missed.layer_nbytes + missed.head_nbytes, missed.host_share)
        far *= HAND_OVER[slots]
        compute_s = self.compute_step_s + self.lost_share * far + self._kv_step_work_s(missed)
        drive = far + HAND_OVER[slots] * missed.kv_nvme_moves * self.kv_move_s("nvme->device")
        host = HAND_OVER[slots] * near + missed.kv_host_moves * self.kv_move_s("host->device")
        dense = max(drive, host)
        if missed.experts:
            expert_nbytes = round(missed.experts.misses * self.sizes.expert_nbytes)
            near, far = self.weights_s(expert_nbytes, missed.expert_host_share)
            compute_s += self._missing_experts_s(missed.experts, max(near, far) / max(1, expert_nbytes))
            drive, host = drive + HAND_OVER[slots] * far, host + HAND_OVER[slots] * near
        parts: dict[Bottleneck, float] = {"compute": self.compute_step_s, "nvme->device": drive, "host->device": host}
        rows = self.embedding_rows_s(1) if missed.embedding else 0.0
        return _together(compute_s, drive, host, slots, dense) + rows, max(parts, key=parts.__getitem__)

    def prefill_s(self, slots: int, chunk_tokens: int, missed: Missed) -> float:
        """The prompt: weights that miss are read once a chunk, KV blocks that miss are written and read again.

        What a layer misses of its experts is known when the rest of it has been computed.
        """
        chunks = num_chunks(self.workload, chunk_tokens)
        near, far = self.weights_s(chunks * (missed.layer_nbytes + missed.head_nbytes), missed.host_share)
        far *= HAND_OVER[slots]
        dense_s, experts_s = self.compute_prefill_s(chunk_tokens)
        compute_s = dense_s + self.lost_share * far
        if missed.kv_streams:
            compute_s += (chunks - 1) * self.kv_visits_s
            compute_s += missed.kv_nvme_blocks * self.kv_prefill_work_s("nvme", chunks)
            compute_s += missed.kv_host_blocks * self.kv_prefill_work_s("host", chunks)
        drive = far + HAND_OVER[slots] * missed.kv_nvme_blocks * self.kv_prefill_s("nvme", chunks)
        host = HAND_OVER[slots] * near + missed.kv_host_blocks * self.kv_prefill_s("host", chunks)
        dense = max(drive, host)
        near, far = self.weights_s(missed.expert_prefill_nbytes, missed.expert_host_share)
        rows = self.embedding_rows_s(self.workload.prompt_tokens) if missed.embedding else 0.0
        compute_s += max(experts_s, near, far)
        return _together(compute_s, drive + far, host + near, slots, dense) + rows

    def weights_s(self, nbytes: int, host_share: float) -> tuple[float, float]:
        """Seconds for so many bytes of weights: what the host's copies take, and what the drive takes."""
        near = host_share * nbytes
        host_s = near / self.profile.bytes_per_s("host->device", self.sizes.slot_nbytes) if near else 0.0
        return host_s, (nbytes - near) * self.weight_read_s

    def _kv_step_work_s(self, missed: Missed) -> float:
        if not missed.kv_streams:
            return 0.0
        moved_s = missed.kv_nvme_moves * self.kv_work_s("nvme->device")
        return self.kv_visits_s + moved_s + missed.kv_host_moves * self.kv_work_s("host->device")

    def _missing_experts_s(self, use: ExpertUse, byte_s: float) -> float:
        tokens = -(-self.workload.batch * self.sizes.experts_per_token // max(1, round(use.visits)))
        return missing_s(self.sizes, self.parts, use, one_expert_s(self.sizes, self.parts, tokens), byte_s)


def _together(compute: float, drive: float, host: float, slots: int, dense: float) -> float:
    """With one slot the ``dense`` transfers wait for computing, which has waited for those of experts already."""
    longest = max(compute + dense, drive, host) if slots == 1 else max(compute, drive, host)
    return longest + OVERLAP_LOSS * (drive + host)
