"""A plan in whole numbers, before names and speeds are put to it: what the program chooses and what it would cost."""

from collections import Counter
from dataclasses import dataclass, replace

from offload.plan_costs import Costs, Missed, Room, least_chunk, rest_nbytes, workspace_nbytes
from offload.plan_kv import MOVES_OF_HOST, KVNeed, extra_moves, kv_need
from tiers.tier import align_up


@dataclass(frozen=True, slots=True)
class Choice:
    """``layers`` and ``heads`` count the resident groups by their size in bytes; misses are at the mean context.

    Of the blocks that move, those beside the misses make what comes from the host up to ``kv_host_moves``; the others
    come from the drive. ``kv_host_room`` is how many blocks the host has slots for.
    """

    staging_slots: int
    chunk_tokens: int
    layers: Counter[int]
    heads: Counter[int]
    keeps_embedding: bool
    kv_resident_blocks: int
    kv_host_blocks: int
    kv_host_misses: int
    kv_nvme_misses: int
    kv_host_moves: float = 0.0
    kv_host_room: int = 0


def everything(costs: Costs, need: KVNeed) -> Choice:
    """All on the device, and the prompt in one go."""
    return Choice(
        staging_slots=0,
        chunk_tokens=align_up(
            max(costs.workload.prompt_tokens, costs.workload.uncut_tokens), costs.sizes.kv_block_tokens
        ),
        layers=by_size(costs.sizes.layer_nbytes),
        heads=by_size(costs.sizes.head_nbytes),
        keeps_embedding=True,
        kv_resident_blocks=need.total,
        kv_host_blocks=0,
        kv_host_misses=0,
        kv_nvme_misses=0,
    )


def smallest(costs: Costs, need: KVNeed, room: Room) -> Choice:
    """One staging slot, the KV blocks that must stay, the smallest prefill chunk."""
    least = Choice(
        staging_slots=1,
        chunk_tokens=least_chunk(costs.sizes, costs.workload),
        layers=Counter(),
        heads=Counter(),
        keeps_embedding=False,
        kv_resident_blocks=room.least_resident,
        kv_host_blocks=0,
        kv_host_misses=0,
        kv_nvme_misses=max(0, need.mean - room.least_resident - room.host),
        kv_host_moves=min(need.mean, MOVES_OF_HOST * room.host),
        kv_host_room=room.host,
    )
    return fill(least, need, room, 0)


def fill(choice: Choice, need: KVNeed, room: Room, spare_blocks: int) -> Choice:
    """Give KV blocks the device memory that nothing else fits into, and the host those that do not fit even so."""
    slots = kv_device_blocks(need, choice.kv_resident_blocks) + spare_blocks
    resident = need.total if slots >= need.total else choice.kv_resident_blocks + spare_blocks
    missed = max(0, need.mean - resident)
    nvme_misses = min(choice.kv_nvme_misses, missed)
    return replace(
        choice,
        kv_resident_blocks=resident,
        kv_host_blocks=min(room.host, need.total - resident - nvme_misses),
        kv_host_misses=missed - nvme_misses,
        kv_nvme_misses=nvme_misses,
    )


def kv_device_blocks(need: KVNeed, resident: int) -> int:
    """Slots that ``resident`` blocks take, with the window for the others if there are others."""
    return min(need.total, resident + need.window) if resident < need.total else need.total


def resident_nbytes(costs: Costs, choice: Choice) -> int:
    """Bytes of the weights that stay on the device."""
    groups = choice.layers + choice.heads
    embedding = costs.sizes.resident_embedding_nbytes if choice.keeps_embedding else 0
    return rest_nbytes(costs.sizes) + embedding + sum(nbytes * count for nbytes, count in groups.items())


def device_nbytes(costs: Costs, need: KVNeed, choice: Choice) -> int:
    """Everything on the device."""
    return (
        resident_nbytes(costs, choice)
        + choice.staging_slots * costs.sizes.slot_nbytes
        + kv_device_blocks(need, choice.kv_resident_blocks) * costs.sizes.kv_block_nbytes
        + workspace_nbytes(costs.sizes, costs.workload, choice.chunk_tokens)
    )


def missed(costs: Costs, choice: Choice) -> Missed:
    """What one decode step finds elsewhere."""
    sizes, need = costs.sizes, kv_need(costs.sizes, costs.workload)
    misses = choice.kv_nvme_misses + choice.kv_host_misses
    extra = extra_moves(sizes, need, choice.kv_host_room, misses, choice.kv_resident_blocks, host=choice.kv_host_blocks)
    from_host = max(0.0, min(extra, choice.kv_host_moves - choice.kv_host_misses))
    return Missed(
        layer_nbytes=sum(n * count for n, count in (by_size(sizes.layer_nbytes) - choice.layers).items()),
        head_nbytes=sum(n * count for n, count in (by_size(sizes.head_nbytes) - choice.heads).items()),
        embedding=sizes.resident_embedding_nbytes > 0 and not choice.keeps_embedding,
        kv_nvme_blocks=choice.kv_nvme_misses,
        kv_host_blocks=choice.kv_host_misses,
        kv_nvme_extra=extra - from_host,
        kv_host_extra=from_host,
        kv_streams=choice.kv_resident_blocks < need.total,
    )


def total_s(costs: Costs, choice: Choice) -> float:
    """Predicted seconds of the whole workload."""
    away = missed(costs, choice)
    step_s, _ = costs.step_s(choice.staging_slots, away)
    return costs.prefill_s(choice.staging_slots, choice.chunk_tokens, away) + costs.workload.new_tokens * step_s


def by_size(group_nbytes: tuple[int, ...]) -> Counter[int]:
    """How many groups there are of each size on the device."""
    return Counter(align_up(nbytes) for nbytes in group_nbytes)
