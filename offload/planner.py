"""Decides what sits where before anything is loaded. Pure: numbers in, numbers out."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from offload.model_sizes import model_sizes
from offload.plan import Budgets, ModelSizes, Plan, Workload
from offload.plan_choice import (
    Choice,
    device_nbytes,
    everything,
    fill,
    kv_device_blocks,
    missed,
    resident_nbytes,
    smallest,
    total_s,
)
from offload.plan_costs import (
    Costs,
    Missed,
    expert_prefill_nbytes,
    kv_room,
    least_chunk,
    least_expert_slots,
    rest_nbytes,
    workspace_nbytes,
)
from offload.plan_experts import Foresee, even_use, typical_use
from offload.plan_kv import KVNeed, kv_need
from offload.plan_program import Task, lower_bound_s, solve
from offload.sizes import format_size
from prefetch.block_store import blocks_ahead
from simulators.profile import HardwareProfile
from tiers.errors import BudgetError
from tiers.tier import align_down, align_up

__all__ = ["make_plan", "model_sizes", "smallest_device_bytes"]

_MOST_SLOTS = 3
_CLOSE_ENOUGH = 1e-4
"""Two plans of which one is predicted faster by less than this are the same to us."""

_MIB = 2**20


def make_plan(
    sizes: ModelSizes,
    budgets: Budgets,
    workload: Workload,
    profile: HardwareProfile,
    *,
    foresee: Foresee | None = None,
) -> Plan:
    """The placement with the shortest predicted time for the whole workload, prefill and decode.

    Everything stays on the device if it fits. Routed experts come last: of them a token needs few, of all else
    everything. ``foresee`` says how many a step finds there; by default what is typical. Raises BudgetError, which
    names the smallest budget that works.
    """
    costs, need = Costs(sizes, workload, profile), kv_need(sizes, workload)
    foresee = foresee or typical_use(sizes, workload)
    all_resident = everything(costs, need)
    if budgets.device_bytes is None:
        return _plan(costs, need, all_resident, sizes.num_experts, budgets, foresee)
    wanted = smallest_device_bytes(sizes, budgets, workload)
    if budgets.device_bytes < wanted:
        raise _budget_error(sizes, budgets, workload, budgets.device_bytes, wanted)
    experts, device_bytes = least_expert_slots(sizes), budgets.device_bytes - _least_experts_nbytes(sizes)
    spare = device_bytes - device_nbytes(costs, need, all_resident)
    if spare >= 0:
        more = spare // sizes.expert_slot_nbytes if sizes.num_experts else 0
        return _plan(costs, need, all_resident, min(sizes.num_experts, experts + more), budgets, foresee)
    room = kv_room(need, budgets, sizes.kv_block_nbytes)
    chunks, most_slots = _chunk_sizes(sizes, workload), min(_MOST_SLOTS, len(sizes.streamable))
    best = _best(
        smallest(costs, need, room),
        [
            Task(costs, need, room, align_down(device_bytes), slots, chunk)
            for slots in range(most_slots + 1)
            for chunk in chunks
        ],
    )
    spare = device_bytes - device_nbytes(costs, need, best)
    return _plan(costs, need, fill(best, need, room, spare // sizes.kv_block_nbytes), experts, budgets, foresee)


def smallest_device_bytes(sizes: ModelSizes, budgets: Budgets, workload: Workload) -> int:
    """The least device memory in which there is a plan, given what host and drive may take of the KV cache."""
    need = kv_need(sizes, workload)
    room = kv_room(need, budgets, sizes.kv_block_nbytes)
    return _least_without_kv(sizes, workload) + kv_device_blocks(need, room.least_resident) * sizes.kv_block_nbytes


def _best(fallback: Choice, tasks: list[Task]) -> Choice:
    """The fastest of all tasks' choices. A cheap bound puts the promising ones first and ends the search early."""
    bounds = [(lower_bound_s(task), task) for task in tasks]
    best, best_s = fallback, math.inf
    for bound_s, task in sorted(bounds, key=lambda bound: bound[0]):
        if bound_s >= best_s * (1 - _CLOSE_ENOUGH):
            break
        choice = _solve_exactly(task)
        if choice is not None and total_s(task.costs, choice) < best_s:
            best, best_s = choice, total_s(task.costs, choice)
    return best


def _solve_exactly(task: Task) -> Choice | None:
    """The solver's tolerance may overstep the budget by a few bytes: then ask again for that much less."""
    allowed = task.device_bytes
    for _ in range(3):
        choice = solve(replace(task, device_bytes=allowed))
        if choice is None:
            return None
        excess = device_nbytes(task.costs, task.need, choice) - task.device_bytes
        if excess <= 0:
            return choice
        allowed -= excess
    return None


def _chunk_sizes(sizes: ModelSizes, workload: Workload) -> tuple[int, ...]:
    """Prefill chunks worth considering: the prompt in 1, 2, 3, 4, 6, 8, 16, 32, ... parts, in whole KV blocks."""
    block = sizes.kv_block_tokens
    halvings = range((workload.prompt_tokens // block).bit_length() + 1)
    parts = [2**exponent for exponent in halvings] + [3, 6]
    least = least_chunk(sizes, workload)
    return tuple({max(least, align_up(-(-workload.prompt_tokens // n), block)) for n in parts})


def _plan(costs: Costs, need: KVNeed, choice: Choice, expert_slots: int, budgets: Budgets, foresee: Foresee) -> Plan:
    """Put names and predictions to a choice."""
    sizes, workload = costs.sizes, costs.workload
    resident, streamed = _names(sizes, choice)
    host_blocks = _host_blocks(sizes, need, choice, budgets)
    in_host, host_experts = _in_host(sizes, host_blocks, streamed, expert_slots, budgets)
    away = replace(
        _with_experts(costs, missed(costs, choice), expert_slots, choice.chunk_tokens, foresee),
        host_share=len(in_host) / max(1, len(streamed)),
        expert_host_share=host_experts / max(1, sizes.num_experts),
    )
    step_s, bottleneck = costs.step_s(choice.staging_slots, away)
    even_s = None
    if away.experts:
        even = even_use(sizes, workload)(expert_slots)
        even_s, _ = costs.step_s(choice.staging_slots, replace(away, experts=even))
    prefill_s = costs.prefill_s(choice.staging_slots, choice.chunk_tokens, away)
    stays_nbytes = resident_nbytes(costs, choice)
    embedding_nbytes = sizes.resident_embedding_nbytes if away.embedding else 0
    return Plan(
        resident=resident,
        streamed=streamed,
        resident_nbytes=stays_nbytes,
        streamed_nbytes=away.layer_nbytes + away.head_nbytes + embedding_nbytes,
        staging_slots=choice.staging_slots,
        slot_nbytes=sizes.slot_nbytes,
        kv_block_nbytes=sizes.kv_block_nbytes,
        kv_device_blocks=kv_device_blocks(need, choice.kv_resident_blocks),
        kv_host_blocks=host_blocks,
        kv_nvme_blocks=need.total - choice.kv_resident_blocks - choice.kv_host_blocks,
        prefill_chunk_tokens=choice.chunk_tokens,
        workspace_bytes=workspace_nbytes(sizes, workload, choice.chunk_tokens),
        device_bytes_used=device_nbytes(costs, need, choice) + expert_slots * sizes.expert_slot_nbytes,
        predicted_tokens_per_s=workload.batch / step_s,
        predicted_prefill_s=prefill_s,
        predicted_total_s=prefill_s + workload.new_tokens * step_s,
        bottleneck=bottleneck,
        missed_weight_bytes_per_token=away.layer_nbytes + away.head_nbytes,
        missed_kv_bytes_per_token=round(away.kv_nvme_moves + away.kv_host_moves) * sizes.kv_block_nbytes,
        expert_slots=expert_slots,
        expert_slot_nbytes=sizes.expert_slot_nbytes,
        missed_expert_bytes_per_token=round(away.experts.misses * sizes.expert_nbytes) if away.experts else 0,
        expert_hit_ratio=away.experts.hit_ratio if away.experts else None,
        routing=away.experts.basis if away.experts else "typical",
        even_tokens_per_s=workload.batch / even_s if even_s else None,
        in_host=in_host,
        host_experts=host_experts,
    )


def _host_blocks(sizes: ModelSizes, need: KVNeed, choice: Choice, budgets: Budgets) -> int:
    """Slots for the KV blocks that live in the host and, as far as there is room, for copies of those that come ahead.

    Without the latter a block that comes can only be put where one goes, and one that goes only where one came from:
    each waits for the other, and nothing is brought before it is needed.
    """
    if not choice.kv_host_blocks:
        return 0
    slots = kv_device_blocks(need, choice.kv_resident_blocks)
    wanted = choice.kv_host_blocks + blocks_ahead(slots, sizes.kv_block_nbytes)
    return min(wanted, kv_room(need, budgets, sizes.kv_block_nbytes).host)


def _in_host(
    sizes: ModelSizes, kv_blocks: int, streamed: tuple[str, ...], expert_slots: int, budgets: Budgets
) -> tuple[tuple[str, ...], int]:
    """What the host keeps copies of in the room that KV blocks leave: streamed groups first, then experts.

    Every token needs all of the former and few of the latter. Spread over the model, so that both links have work all
    the time.
    """
    if not budgets.host_is_apart:
        return (), 0
    spare = (budgets.host_bytes or 0) - kv_blocks * sizes.kv_block_nbytes
    groups = [(name, nbytes) for name, nbytes in sizes.streamable if name in streamed]
    count = min(len(groups), spare // sizes.slot_nbytes)
    some = _spread([(name, sizes.slot_nbytes) for name, _ in groups], Counter({sizes.slot_nbytes: count}))
    experts = 0
    if expert_slots < sizes.num_experts:
        experts = min(sizes.num_experts, (spare - count * sizes.slot_nbytes) // sizes.expert_slot_nbytes)
    return tuple(name for name, _ in groups if name in some), experts


def _with_experts(costs: Costs, away: Missed, slots: int, chunk_tokens: int, foresee: Foresee) -> Missed:
    """With what a step and the prompt miss of the experts, where some do not stay."""
    if slots >= costs.sizes.num_experts:
        return away
    prefill_nbytes = expert_prefill_nbytes(costs.sizes, costs.workload, slots, chunk_tokens)
    return replace(away, experts=foresee(slots), expert_prefill_nbytes=prefill_nbytes)


def _names(sizes: ModelSizes, choice: Choice) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The groups that stay and those that do not. The embedding is named only where the model has one of its own."""
    layers = sizes.streamable[: len(sizes.layer_nbytes)]
    heads = sizes.streamable[len(sizes.layer_nbytes) :]
    stays = _spread(layers, choice.layers) | _spread(heads, choice.heads)
    resident = [name for name, _ in sizes.streamable if name in stays]
    streamed = [name for name, _ in sizes.streamable if name not in stays]
    if sizes.resident_embedding_nbytes:
        (resident if choice.keeps_embedding else streamed).extend(sizes.embedding_names)
    if sizes.rest_nbytes:
        resident.extend(sizes.rest_names)
    return tuple(resident), tuple(streamed)


def _spread(groups: Iterable[tuple[str, int]], counts: Counter[int]) -> set[str]:
    """Choose evenly among groups of one size: then the drive reads on while resident ones in between are computed."""
    names: dict[int, list[str]] = {}
    for name, nbytes in groups:
        names.setdefault(nbytes, []).append(name)
    return {
        name
        for nbytes, alike in names.items()
        for i, name in enumerate(alike)
        if (i + 1) * counts[nbytes] // len(alike) > i * counts[nbytes] // len(alike)
    }


def _least_without_kv(sizes: ModelSizes, workload: Workload) -> int:
    fixed = rest_nbytes(sizes) + workspace_nbytes(sizes, workload, least_chunk(sizes, workload))
    return sizes.slot_nbytes + fixed + _least_experts_nbytes(sizes)


def _least_experts_nbytes(sizes: ModelSizes) -> int:
    """Device memory that experts take in every plan."""
    return least_expert_slots(sizes) * sizes.expert_slot_nbytes


def _budget_error(sizes: ModelSizes, budgets: Budgets, workload: Workload, device: int, wanted: int) -> BudgetError:
    """Blames the drive's budget where more of it would help, else the device's."""
    task = f"batch {workload.batch} of {workload.prompt_tokens} + {workload.new_tokens} tokens"
    unbounded = replace(budgets, nvme_bytes=None)
    if budgets.nvme_bytes and device >= smallest_device_bytes(sizes, unbounded, workload):
        need, block = kv_need(sizes, workload), sizes.kv_block_nbytes
        resident = (device - _least_without_kv(sizes, workload)) // block - need.window
        least = (need.total - resident - kv_room(need, budgets, block).host) * block
        return BudgetError(
            f"--nvme-memory {format_size(budgets.nvme_bytes)}: too little for the KV cache of {task}; "
            f"the smallest that works beside --device-memory {format_size(device)} is {-(-least // _MIB)}MiB",
            wanted_bytes=least,
            available_bytes=budgets.nvme_bytes,
        )
    return BudgetError(
        f"--device-memory {format_size(device)}: too little for this model and {task}; "
        f"the smallest that works is {-(-wanted // _MIB)}MiB",
        wanted_bytes=wanted,
        available_bytes=device,
    )
