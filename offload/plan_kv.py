"""KV blocks that do not fit: how many of them move in a decode step, and what that takes of the model.

What leaves and what comes ahead of need is decided by the policy, the prefetcher and the manager that ship; formulas
here say in a few terms what the simulator's replay of these counts. Blocks are those of all sequences at the mean
context.
"""

import math
from dataclasses import dataclass

from offload.plan import ModelSizes, Workload
from prefetch.block_store import LOOKAHEAD_LAYERS, most_blocks_ahead
from simulators.generation_costs import GenerationCosts

MOVES_OF_DRIVE = 3
"""Blocks that come from the drive in a step for each that lives there, at most.

In replays it is at most two: each of them, and one that it has pushed out. With no third one to spare the program seeks
plans in which that bound alone counts, where blocks wait for each other: some were said to be 1.8 times too fast.
"""
MOVES_OF_HOST = 1.5
"""Blocks that come from the host in a step for each that it has room for, at most.

Fitted to replays, not derived: a block that comes leaves a slot, and another may take it in the same step. With
1, hosts that hold just about all that the device does not were said to cost no more than what misses, and the program
sought such plans: they ran at 0.85 of what was said.
"""
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


def mean_context(workload: Workload) -> int:
    """Tokens of a sequence half way through its decoding."""
    return workload.prompt_tokens + -(-workload.new_tokens // 2)


@dataclass(frozen=True, slots=True)
class MoveBound:
    """No more blocks come to the device in a step than ``constant`` and what is added for each of some blocks.

    ``per_miss`` is for each that misses, ``per_resident`` that is resident, ``per_host`` that lives in the host.
    """

    constant: float
    per_miss: float = 0.0
    per_resident: float = 0.0
    per_host: float = 0.0

    def blocks(self, misses: int, resident: int, host: int) -> float:
        return self.constant + self.per_miss * misses + self.per_resident * resident + self.per_host * host


def move_bounds(sizes: ModelSizes, need: KVNeed, host_room: int) -> tuple[MoveBound, ...]:
    """As many blocks move as the least of these allows: more than miss, since those that come push out others.

    Blocks that are on their way, and those of the layer at work, take slots in which others could stay: at most half of
    all slots, as many as are fetched ahead at most, or what misses of the layers that are fetched ahead and one layer
    besides. Where little misses, those that come push out little more than themselves. The window holds blocks as well.
    From the host come few more than it has room for, and from the drive few where few live there.
    """
    layers, window = max(1, sizes.num_layers), need.window
    of_layer = need.mean / layers
    bounds = [
        MoveBound(need.mean),
        MoveBound(-window / 2, per_miss=1.0, per_resident=0.5),
        MoveBound(most_blocks_ahead(sizes.kv_block_nbytes) - window, per_miss=1.0),
        MoveBound(of_layer - 2 * window, per_miss=2.0),
        MoveBound(
            MOVES_OF_HOST * host_room + MOVES_OF_DRIVE * need.total,
            per_resident=-MOVES_OF_DRIVE,
            per_host=-MOVES_OF_DRIVE,
        ),
    ]
    if layers > LOOKAHEAD_LAYERS:
        more = 1 / (1 - LOOKAHEAD_LAYERS / layers)
        bounds.append(MoveBound(more * (of_layer - window), per_miss=more))
    return tuple(bounds)


def extra_moves(sizes: ModelSizes, need: KVNeed, host_room: int, misses: int, resident: int, host: int) -> float:
    """Blocks that come in a step beside the ``misses``, where so many are ``resident`` and so many live in the host.

    ``host_room`` is what it has slots for. None where all stay.
    """
    if resident >= need.total:
        return 0.0
    bounds = move_bounds(sizes, need, host_room)
    return max(0.0, min(bound.blocks(misses, resident, host) for bound in bounds) - misses)


def visits_s(sizes: ModelSizes, workload: Workload, costs: GenerationCosts) -> float:
    """Of one pass, the look-ups and the runs of blocks that attention visits, wherever these are.

    The runs of a sequence in a layer are, in replays of 8 to 65 blocks, about the root of the number of blocks.
    """
    runtime, rows = costs.runtime, sizes.num_layers * workload.batch
    blocks = _blocks(sizes, mean_context(workload))
    return rows * (runtime.kv_visit_s + blocks * runtime.kv_block_s + math.sqrt(blocks) * runtime.kv_part_s)


def _blocks(sizes: ModelSizes, tokens: int) -> int:
    return -(-tokens // sizes.kv_block_tokens)
