"""The tiers, links and managers behind one offloaded model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from offload.arenas import Arena, make_arena, make_host_arena
from offload.config import RunConfig
from offload.experts.store import ExpertStore
from offload.graphs.graphs import StepGraphs
from offload.kv.drives import KVDrives
from offload.kv.layout import KVLayout
from offload.kv.store import KVStore
from offload.plan import Plan
from offload.weights.streamer import WeightStreamer
from tiers.eviction.registry import make_policy
from tiers.manager import Level, TieredMemoryManager
from tiers.nvme_tier import NVMeTier
from tiers.pinned_tier import PinnedTier
from tiers.pool import BlockPool
from tiers.transfer import TransferEngine
from tiers.weight_tier import WeightTier

if TYPE_CHECKING:
    from tiers.tier import Tier


@dataclass(slots=True)
class Runtime:
    """Everything that has to be given back when the model is closed."""

    plan: Plan
    engine: TransferEngine
    source: WeightTier
    resident: Arena
    streamer: WeightStreamer | None
    experts: ExpertStore | None
    kv: KVStore
    kv_levels: list[Level]
    drives: KVDrives | None
    prefill_chunk_tokens: int | None
    """None where a prompt is taken in one piece."""
    graphs: StepGraphs | None = None
    """None where no step is done by a CUDA graph."""

    @property
    def _fixed_device_nbytes(self) -> int:
        staging = self.streamer.arena.num_slots * self.streamer.arena.block_nbytes if self.streamer else 0
        experts = self.experts.pool.num_slots * self.experts.slot_nbytes if self.experts else 0
        return self.resident.nbytes + self.plan.workspace_bytes + staging + experts

    @property
    def notes(self) -> list[str]:
        """Every slower way that was taken and why, one line each."""
        below = [*self.kv_levels[1:], *(self.streamer.host if self.streamer else [])]
        below += self.experts.host if self.experts else []
        notes = [f"{level.tier.name}: {reason}" for level in below if (reason := _fallback(level.tier))]
        if (self.streamer or self.experts) and not self.source.direct:
            notes.append(f"weights: read through the page cache, no O_DIRECT for {self.source.path}")
        notes += [*self.engine.notes, *(f"attention: {flaw}" for flaw in sorted(self.kv.flaws))]
        notes += [f"experts: {flaw}" for flaw in sorted(self.experts.flaws)] if self.experts else []
        notes += self.drives.notes if self.drives else []
        notes += self.graphs.notes if self.graphs else []
        return list(dict.fromkeys(notes))

    def tier_occupancy(self) -> dict[str, tuple[int, int]]:
        """Bytes in use now and bytes that may be used, by tier."""
        occupancy = {}
        for level in self.kv_levels:
            block = level.tier.block_nbytes
            occupancy[level.tier.name] = (level.pool.num_used * block, level.tier.num_slots * block)
        used, capacity = occupancy["device"]
        fixed = self._fixed_device_nbytes
        occupancy["device"] = (used + fixed, capacity + fixed)
        if copies := self.plan.host_weight_nbytes:
            used, capacity = occupancy.get("host", (0, 0))
            occupancy["host"] = (used + copies, capacity + copies)
        if self.drives:
            occupancy["csd"] = (self.drives.usage.nbytes, self.drives.capacity_nbytes)
            if self.plan.host_newest_nbytes:
                used, capacity = occupancy.get("host", (0, 0))
                room = self.drives.newest.room
                occupancy["host"] = (used + room.used_nbytes, capacity + room.capacity_nbytes)
        return occupancy

    def tier_usage(self) -> dict[str, dict[str, int]]:
        """Bytes of each tier: ``capacity_bytes`` that may be used and ``peak_bytes`` that were, for blocks and weights.

        The device adds the workspace that the plan sets aside for activations.
        """
        usage: dict[str, dict[str, int]] = {}
        for level in self.kv_levels:
            block = level.tier.block_nbytes
            usage[level.tier.name] = {
                "capacity_bytes": level.tier.num_slots * block,
                "peak_bytes": level.pool.peak_used * block,
            }
        device = usage["device"]
        device["capacity_bytes"] += self._fixed_device_nbytes
        device["peak_bytes"] += self._fixed_device_nbytes
        if copies := self.plan.host_weight_nbytes:
            host = usage.setdefault("host", {"capacity_bytes": 0, "peak_bytes": 0})
            host["capacity_bytes"] += copies
            host["peak_bytes"] += copies
        if self.drives:
            usage["csd"] = {
                "capacity_bytes": self.drives.capacity_nbytes,
                "peak_bytes": self.drives.usage.peak_nbytes,
            }
            if self.plan.host_newest_nbytes:
                room = self.drives.newest.room
                host = usage.setdefault("host", {"capacity_bytes": 0, "peak_bytes": 0})
                host["capacity_bytes"] += room.capacity_nbytes
                host["peak_bytes"] += room.peak_nbytes
        return usage

    def close(self) -> None:
        """Idempotent. The links come first: they work in memory and files that the others give back."""
        if self.graphs:
            self.graphs.close()
        self.engine.close()
        if self.drives:
            self.drives.close()
        if self.streamer:
            self.streamer.close()
        if self.experts:
            self.experts.close()
        for level in self.kv_levels:
            level.tier.close()
        self.source.close()


def _fallback(tier: "Tier") -> str | None:
    """Why a tier is slower than it could be: memory that is not page-locked, or a page cache that is in the way."""
    if isinstance(tier, PinnedTier):
        return None if tier.is_pinned else tier.note
    return tier.fallback_reason if isinstance(tier, NVMeTier) else None


def make_kv_levels(plan: Plan, layout: KVLayout, config: RunConfig, nvme_blocks: int) -> list[Level]:
    """Device, host and drive levels for KV blocks, as far as the plan uses them. Raises what NVMeTier raises."""
    block = layout.block_nbytes
    tiers: list[Tier] = [make_arena(config.device, max(1, plan.kv_device_blocks), block)]
    if plan.kv_host_blocks:
        tiers.append(make_host_arena(config.device, plan.kv_host_blocks, block))
    if nvme_blocks and config.nvme_dir is not None:
        tiers.append(NVMeTier(config.nvme_dir, nvme_blocks, block))
    return [Level(tier, BlockPool(tier.num_slots), make_policy(config.kv_policy, tier.num_slots)) for tier in tiers]


def make_kv_store(engine: TransferEngine, levels: list[Level], layout: KVLayout, num_layers: int) -> KVStore:
    """The store over these levels; layers are read ahead where blocks can leave the device."""
    arena = levels[0].tier
    assert isinstance(arena, Arena), "blocks are used where tensors can look at them"
    return KVStore(layout, arena, TieredMemoryManager(engine, levels), num_layers=num_layers)
