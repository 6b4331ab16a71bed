"""The planner's mixed-integer program: which weights and KV blocks stay.

The number of staging slots and the size of a prefill chunk are given.

    minimise    prefill + new_tokens * step
    subject to  staging + resident weights + rest + resident KV blocks + KV window + workspace <= device budget
                step    >= compute, drive(missed bytes), host(missed bytes)
                prefill >= the same, for the given chunk size

Groups of one size are interchangeable, so the variables are counts of groups by size rather than one binary a group.
The coefficients are those of plan_costs.
"""

import math
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial

from offload.plan_choice import Choice, by_size, fill, total_s
from offload.plan_costs import HAND_OVER, OVERLAP_LOSS, Costs, Room, num_chunks, rest_nbytes, workspace_nbytes
from offload.plan_kv import MOVES_OF_DRIVE, MOVES_OF_HOST, KVNeed, move_bounds
from offload.plan_linear import LinearProgram
from tiers.tier import align_up

_TOLERANCE = 1e-6
"""How far from a whole number HiGHS may leave one."""


@dataclass(frozen=True, slots=True)
class Task:
    """One program to solve: the number of staging slots and the prefill chunk are given, the rest is to be found."""

    costs: Costs
    need: KVNeed
    room: Room
    device_bytes: int
    staging_slots: int
    chunk_tokens: int

    @property
    def second(self) -> float:
        """The program's unit of time, in seconds: a hundredth of a step that misses all weights, on any machine."""
        weights_s = (_nbytes(self.costs.sizes.layer_nbytes) + _nbytes(self.costs.sizes.head_nbytes)) * self.byte_s
        return (self.costs.compute_step_s + weights_s) / 100

    @property
    def byte_s(self) -> float:
        """Seconds per byte of weights that are streamed."""
        return HAND_OVER[self.staging_slots] * self.costs.weight_read_s

    @property
    def embedding_s(self) -> float:
        """What the embedding costs in all where it is not resident."""
        if self.costs.sizes.resident_embedding_nbytes == 0:
            return 0.0
        prompt, steps = self.costs.workload.prompt_tokens, self.costs.workload.new_tokens
        return self.costs.embedding_rows_s(prompt) + steps * self.costs.embedding_rows_s(1)


@dataclass(frozen=True, slots=True)
class _Columns:
    """Numbers of the program's columns. ``layers`` and ``heads`` pair a size with the column that counts it."""

    layers: list[tuple[int, int]]
    heads: list[tuple[int, int]]
    embedding: int
    resident: int
    streams: int
    host: int
    host_misses: int
    nvme_misses: int
    host_extra: int
    nvme_extra: int


def lower_bound_s(task: Task) -> float:
    """Seconds that no choice can beat; infinite where there is no choice."""
    program, _ = _program(task)
    solved = program.solve(relaxed=True)
    return math.inf if solved is None else solved[0] * task.second + task.embedding_s


def solve(task: Task) -> Choice | None:
    """The best choice, or None where there is none. It may overstep the budget by the solver's tolerance."""
    program, columns = _program(task)
    solved = program.solve()
    if solved is None:
        return None
    values = solved[1]
    layers = Counter({nbytes: round(values[column]) for nbytes, column in columns.layers})
    heads = Counter({nbytes: round(values[column]) for nbytes, column in columns.heads})
    streams = layers != by_size(task.costs.sizes.layer_nbytes) or heads != by_size(task.costs.sizes.head_nbytes)
    resident = round(values[columns.resident])
    host_misses = values[columns.host_misses]
    choice = Choice(
        staging_slots=task.staging_slots if streams else 0,
        chunk_tokens=task.chunk_tokens,
        layers=layers,
        heads=heads,
        keeps_embedding=round(values[columns.embedding]) == 1,
        kv_resident_blocks=resident,
        kv_host_blocks=0,
        kv_host_misses=0,
        kv_nvme_misses=0,
        kv_host_moves=host_misses + values[columns.host_extra],
        kv_host_room=task.room.host,
    )
    missed = max(0, task.need.mean - resident)
    # A block that the program has cut goes to the link on which it costs less.
    whole = {math.floor(host_misses + _TOLERANCE), math.ceil(host_misses - _TOLERANCE)}
    choices = [fill(replace(choice, kv_nvme_misses=max(0, missed - count)), task.need, task.room, 0) for count in whole]
    return min(choices, key=partial(total_s, task.costs))


def _program(task: Task) -> tuple[LinearProgram, _Columns]:
    program = LinearProgram()
    columns = _add_columns(program, task)
    _bound_device(program, task, columns)
    _bound_kv(program, task, columns)
    _bound_moves(program, task, columns)
    _charge_step(program, task, columns)
    _charge_prefill(program, task, columns)
    return program, columns


def _add_columns(program: LinearProgram, task: Task) -> _Columns:
    sizes, need, room = task.costs.sizes, task.need, task.room

    def counts(nbytes: tuple[int, ...]) -> list[tuple[int, int]]:
        # Without a staging slot nothing can be streamed. A second slot comes before the first resident group.
        least, most = (task.staging_slots == 0), (task.staging_slots != 1)
        return [(size, program.column(least * n, most * n, is_integer=True)) for size, n in by_size(nbytes).items()]

    has_embedding = sizes.resident_embedding_nbytes > 0
    return _Columns(
        layers=counts(sizes.layer_nbytes),
        heads=counts(sizes.head_nbytes),
        embedding=program.column(0, has_embedding, cost=-task.embedding_s / task.second, is_integer=True),
        resident=program.column(room.least_resident, need.total, is_integer=True),
        streams=program.column(0, 1, is_integer=True),
        # Blocks off the device are many and small: the program may cut them, which spares it a search.
        host=program.column(0, room.host),
        host_misses=program.column(0, room.host),
        nvme_misses=program.column(0, room.nvme),
        host_extra=program.column(0, min(need.mean, MOVES_OF_HOST * room.host)),
        nvme_extra=program.column(0, need.mean if room.nvme else 0),
    )


def _bound_device(program: LinearProgram, task: Task, columns: _Columns) -> None:
    """Everything on the device within its budget, counted in slots to keep the numbers small."""
    sizes = task.costs.sizes
    unit, block = sizes.slot_nbytes, sizes.kv_block_nbytes
    terms = {column: nbytes / unit for nbytes, column in columns.layers + columns.heads}
    terms[columns.embedding] = sizes.resident_embedding_nbytes / unit
    terms[columns.resident] = block / unit
    terms[columns.streams] = task.need.window * block / unit
    fixed = rest_nbytes(sizes) + workspace_nbytes(sizes, task.costs.workload, task.chunk_tokens)
    program.row(terms, at_most=(task.device_bytes - fixed) / unit - task.staging_slots)


def _bound_kv(program: LinearProgram, task: Task, columns: _Columns) -> None:
    """Every block has a home, and what misses at the mean context is read from where it lives."""
    need = task.need
    resident, host = columns.resident, columns.host
    program.row({resident: 1, columns.streams: need.total - need.tails}, at_least=need.total)
    program.row({resident: 1, host: 1}, at_least=need.total - task.room.nvme, at_most=need.total)
    program.row({columns.host_misses: 1, host: -1}, at_most=0)
    program.row({columns.nvme_misses: 1, resident: 1, host: 1}, at_most=need.total)
    program.row({columns.host_misses: 1, columns.nvme_misses: 1, resident: 1}, at_least=need.mean)


def _bound_moves(program: LinearProgram, task: Task, columns: _Columns) -> None:
    """Blocks that come beside those that miss: at least the least of the bounds of ``extra_moves``.

    Which link they come over is free, but for what the host has room for and what the drive holds.
    """
    need = task.need
    program.row({columns.host_misses: 1, columns.host_extra: 1}, at_most=MOVES_OF_HOST * task.room.host)
    drive = {columns.nvme_misses: 1, columns.nvme_extra: 1}
    off_drive = dict.fromkeys((columns.resident, columns.host), MOVES_OF_DRIVE)
    program.row(drive | off_drive, at_most=MOVES_OF_DRIVE * need.total)
    bounds = move_bounds(task.costs.sizes, need, task.room.host)
    spared = [program.column(0, 1, is_integer=True) for _ in bounds]
    program.row(dict.fromkeys(spared, 1.0), at_most=len(bounds) - 1)
    for bound, is_spared in zip(bounds, spared, strict=True):
        least = {columns.host_extra: 1.0, columns.nvme_extra: 1.0, columns.streams: -bound.constant}
        misses = 1 - bound.per_miss
        least |= {columns.host_misses: misses, columns.nvme_misses: misses}
        least |= {columns.resident: -bound.per_resident, columns.host: -bound.per_host}
        # So much that whoever is spared may have any number of extra blocks, none too.
        blocks = abs(misses) + abs(bound.per_resident) + abs(bound.per_host)
        enough = abs(bound.constant) + blocks * need.total
        program.row({**least, is_spared: enough}, at_least=0)


def _charge_step(program: LinearProgram, task: Task, columns: _Columns) -> None:
    costs = task.costs
    drive = _Blocks(
        HAND_OVER[task.staging_slots] * costs.kv_move_s("nvme->device"),
        costs.kv_work_s("nvme->device"),
        (columns.nvme_misses, columns.nvme_extra),
    )
    host = _Blocks(
        costs.kv_move_s("host->device"), costs.kv_work_s("host->device"), (columns.host_misses, columns.host_extra)
    )
    compute_s = costs.compute_step_s
    _charge(program, task, columns, compute_s, costs.kv_visits_s, 1, drive, host, cost=costs.workload.new_tokens)


def _charge_prefill(program: LinearProgram, task: Task, columns: _Columns) -> None:
    costs = task.costs
    chunks = num_chunks(costs.workload, task.chunk_tokens)
    hand_over = HAND_OVER[task.staging_slots]
    drive = _Blocks(
        hand_over * costs.kv_prefill_s("nvme", chunks), costs.kv_prefill_work_s("nvme", chunks), (columns.nvme_misses,)
    )
    host = _Blocks(costs.kv_prefill_s("host", chunks), costs.kv_prefill_work_s("host", chunks), (columns.host_misses,))
    compute_s, visits_s = sum(costs.compute_prefill_s(task.chunk_tokens)), (chunks - 1) * costs.kv_visits_s
    _charge(program, task, columns, compute_s, visits_s, chunks, drive, host, cost=1.0)


@dataclass(frozen=True, slots=True)
class _Blocks:
    """KV blocks over a link: seconds that one takes of the link and of the model, and which columns count them."""

    link_s: float
    work_s: float
    columns: tuple[int, ...]

    def on_link(self, second: float) -> dict[int, float]:
        return dict.fromkeys(self.columns, -self.link_s / second)

    def on_model(self, second: float) -> dict[int, float]:
        return dict.fromkeys(self.columns, -self.work_s / second)


def _charge(
    program: LinearProgram,
    task: Task,
    columns: _Columns,
    compute_s: float,
    visits_s: float,
    passes: int,
    from_drive: _Blocks,
    from_host: _Blocks,
    *,
    cost: float,
) -> None:
    """Charge a step, or a prefill of ``passes`` over all weights; ``visits_s`` where KV blocks come and go."""
    sizes, unit, lost = task.costs.sizes, task.second, task.costs.lost_share
    byte_s = passes * task.byte_s / unit
    drive, host, time = (program.column(0, math.inf, cost=price) for price in (OVERLAP_LOSS * cost,) * 2 + (cost,))
    weights, work = program.column(0, math.inf), program.column(compute_s / unit, math.inf)
    terms = {column: nbytes * byte_s for nbytes, column in columns.layers + columns.heads}
    all_nbytes = _nbytes(sizes.layer_nbytes) + _nbytes(sizes.head_nbytes)
    program.row({weights: 1.0, **terms}, at_least=byte_s * all_nbytes)
    program.row({drive: 1.0, weights: -1.0, **from_drive.on_link(unit)}, at_least=0)
    program.row({host: 1.0, **from_host.on_link(unit)}, at_least=0)
    terms = {**from_drive.on_model(unit), **from_host.on_model(unit), columns.streams: -visits_s / unit}
    program.row({work: 1.0, weights: -lost, **terms}, at_least=compute_s / unit)
    program.row({time: 1.0, work: -1.0}, at_least=0)
    for link in (drive, host):
        program.row({time: 1.0, link: -1.0} | ({work: -1.0} if task.staging_slots == 1 else {}), at_least=0)


def _nbytes(groups: tuple[int, ...]) -> int:
    return sum(align_up(nbytes) for nbytes in groups)
