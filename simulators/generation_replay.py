"""A generation in virtual time: the managers, policies and prefetchers that ship, in the runtime's order of calls.

A pass goes through the layers. Of each the streamed weights are acquired, half of it is computed, new tokens are stored
and attended to with those before them, layers ahead are fetched, the other half is computed with the experts that the
trace says were chosen, and the weights are released. Then the slices of the head follow. Experts come from a recorded
trace, never from an assumed ratio of hits.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from prefetch.block_store import BlockStore, Interval
from prefetch.block_table import TokenTable
from prefetch.expert_predictor import ExpertPredictor
from simulators.expert_trace import ExpertTrace
from simulators.expert_visits import Pass, passes_of, routing_at, tokens_of
from simulators.generation_costs import GenerationCosts
from simulators.generation_parts import KVDrives, KVRows, make_experts, make_stream
from simulators.generation_shape import GroupShape, LayerShape, ModelShape, PlacementShape, WorkShape
from simulators.modelled_link import VirtualClock
from simulators.profile import HardwareProfile
from simulators.queued_mover import QueuedMover
from tiers.errors import TraceError
from tiers.manager import ManagerStats


@dataclass(frozen=True, slots=True)
class Routing:
    """Which experts the tokens visit, what has to leave for them, and who guesses them."""

    trace: ExpertTrace
    policy: str = "expected_use"
    predictor: ExpertPredictor | None = None


@dataclass(slots=True)
class GenerationResult:
    """What a replay counted. Times are virtual; ``decode`` is of the steps after the first token."""

    prefill_s: float = 0.0
    decode_s: float = 0.0
    decode_steps: int = 0
    stall_s: float = 0.0
    """Of all passes, in which the model waited for blocks."""
    decode_stall_s: float = 0.0
    link_nbytes: dict[str, int] = field(default_factory=dict)
    experts: ManagerStats = field(default_factory=ManagerStats)
    kv: ManagerStats = field(default_factory=ManagerStats)
    weights: ManagerStats = field(default_factory=ManagerStats)

    @property
    def decode_tokens_per_s(self) -> float:
        """Steps a second, of one sequence of the batch."""
        return self.decode_steps / self.decode_s if self.decode_s else 0.0


def replay_generation(
    model: ModelShape,
    placement: PlacementShape,
    work: WorkShape,
    profile: HardwareProfile,
    routing: Routing | None = None,
    *,
    mover: QueuedMover | None = None,
) -> GenerationResult:
    """Prefill and decode of ``work``. The same numbers every time.

    ``routing`` is needed of a mixture of experts; its trace has the passes of ``work``, in their order. A ``mover`` of
    one's own sees what moves. Raises TraceError where the trace is of another generation, TierFullError.
    """
    costs = GenerationCosts(profile, model.dtype)
    mover = mover or QueuedMover(VirtualClock(), costs.links(is_checked=bool(placement.kv_nvme_blocks)))
    return _Generation(model, placement, work, costs, routing, mover).run()


class _Generation:
    def __init__(
        self,
        model: ModelShape,
        placement: PlacementShape,
        work: WorkShape,
        costs: GenerationCosts,
        routing: Routing | None,
        mover: QueuedMover,
    ) -> None:
        self._model, self._work, self._costs, self._mover = model, work, costs, mover
        self._passes = work.passes(placement.prefill_chunk_tokens)
        self._routing = routing
        self._routed = _routed_passes(model, routing, self._passes, work.batch)
        self._predictor = routing.predictor if routing else None
        self._stream = make_stream(mover, model, placement)
        policy = routing.policy if routing else "lru"
        self._waves = make_experts(mover, model, placement, policy, self._predictor)
        if placement.expert_slots >= len(model.experts):
            self._predictor = None
        self._kv = KVRows(mover, model, placement, work.batch)
        self._drives = None if placement.drives is None else KVDrives(mover, placement.drives)
        self._products = {expert.key: expert.products for expert in model.experts}

    def run(self) -> GenerationResult:
        result, mover, clock = GenerationResult(), self._mover, self._mover.clock
        if self._stream:
            self._stream.start()
            mover.rest()  # what a model reads ahead when it is loaded has come when it is used
        start = clock.now_s, mover.stall_s
        first = len(self._passes) - (self._work.new_tokens - 1)
        for index, tokens in enumerate(self._passes):
            if index == first:
                result.prefill_s = clock.now_s - start[0]
                decode = clock.now_s, mover.stall_s
            self._forward(index, tokens)
        if len(self._passes) == first:
            result.prefill_s, decode = clock.now_s - start[0], (clock.now_s, mover.stall_s)
        result.decode_s, result.decode_steps = clock.now_s - decode[0], len(self._passes) - first
        result.stall_s, result.decode_stall_s = mover.stall_s - start[1], mover.stall_s - decode[1]
        result.link_nbytes = {name: link.use.nbytes for name, link in mover.links.items()}
        result.kv = self._kv.manager.stats
        if self._stream:
            result.weights = self._stream.manager.stats
        if self._waves:
            result.experts = self._waves.manager.stats
        return result

    def _forward(self, index: int, tokens: int) -> None:
        model, costs = self._model, self._costs
        count = tokens * self._work.batch
        routed = self._routed[index] if self._routed else None
        if routed and self._predictor and self._routing:
            self._predictor.begin(tokens_of(self._routing.trace, routed), routed.position)
        self._compute(costs.runtime.step_s + costs.rows_s(model, count))
        place = 0
        for number, layer in enumerate(model.layers):
            self._acquire(layer.group)
            layer_s = costs.layer_s(layer, count)
            self._compute(layer_s / 2)
            if self._drives and layer.attention.window is None:
                self._attend_in_drives(self._drives, number, layer, tokens)
            else:
                self._attend_rows(self._kv.tables[number], layer, tokens)
            if self._kv.prefetcher:
                self._kv.prefetcher.advance(number)
            self._compute(layer_s / 2 + self._moved_s())
            if layer.experts:
                assert routed is not None, "a layer with experts has a trace"
                self._visit(routed, place)
                place += 1
            self._release(layer.group)
        for piece in model.head:
            self._acquire(piece)
            self._compute(costs.head_s(model, piece, self._work.batch))
            self._release(piece)

    def _attend_in_drives(self, drives: KVDrives, number: int, layer: LayerShape, tokens: int) -> None:
        """As ``offload.attention.in_storage`` does; a prompt attends to itself on the device."""
        if tokens == 1:
            drives.attend()
            return
        before = drives.num_tokens.get(number, 0)
        for _ in range(self._work.batch):
            self._compute(self._costs.attention_s(layer.attention, tokens, before + tokens // 2))
        drives.store(number, tokens)

    def _attend_rows(self, tables: Sequence[TokenTable[BlockStore]], layer: LayerShape, tokens: int) -> None:
        window = layer.attention.window
        for table in tables:
            table.grow(tokens, _write_nothing)
            if window is not None:
                table.drop_before(table.num_tokens - tokens - window + 1)
        for table in tables:
            self._attend(table, layer, tokens)

    def _attend(self, table: TokenTable[BlockStore], layer: LayerShape, tokens: int) -> None:
        """As ``offload.attention.interface`` does, of sequences without padding."""
        attention, costs, store = layer.attention, self._costs, self._kv.store
        end = table.num_tokens
        start, window = end - tokens, attention.window
        if tokens == 1:
            oldest = 0 if window is None else max(0, end - window)
            if table.origin is not None:
                size = store.block_tokens
                store.manager.stats.hits += (end - 1) // size - oldest // size + 1
                self._compute(costs.attention_s(attention, 1, end - oldest))
                return
            self._attend_blocks(table, layer, oldest, end, tokens)
            return
        # Of the tokens that come together each sees half of the others.
        self._compute(costs.attention_s(attention, tokens, tokens // 2))
        oldest = 0 if window is None else max(0, start + 1 - window)
        if start > oldest:
            self._attend_blocks(table, layer, oldest, start, tokens)

    def _attend_blocks(
        self, table: TokenTable[BlockStore], layer: LayerShape, begin: int, end: int, queries: int
    ) -> None:
        costs, attention = self._costs, layer.attention
        keys, spans = table.spans(begin, end)
        if not self._kv.store.is_still:
            self._compute(costs.runtime.kv_visit_s + len(keys) * costs.runtime.kv_block_s)

        def visit(interval: Interval) -> None:
            part_s = costs.attention_s(attention, queries, interval.stop - interval.start)
            self._compute(costs.runtime.kv_part_s + part_s)

        self._kv.store.visit(keys, spans, visit, in_order=queries > 1 and attention.window is not None)

    def _moved_s(self) -> float:
        """What the KV blocks that set out in this layer take from the model."""
        nbytes = self._kv.store.manager.levels[0].tier.block_nbytes
        return sum(count * self._costs.kv_moved_s(link, nbytes) for link, count in self._kv.take_moved().items())

    def _visit(self, routed: Pass, place: int) -> None:
        """The experts of one layer, as ``offload.experts.interface`` visits them one by one."""
        assert self._waves is not None
        assert self._routing is not None
        costs, waves, trace = self._costs, self._waves, self._routing.trace
        if self._predictor:
            self._predictor.observe(routing_at(trace, routed, place))
            self._compute(costs.runtime.prediction_s)
        counts = np.bincount(trace.experts[routed.tokens, place].reshape(-1), minlength=trace.num_experts).tolist()
        self._compute(costs.runtime.moe_byte_s * sum(self._products[routed.visits[place][0]]))
        before = waves.manager.stats.misses
        for wave in waves.waves(routed.visits[place]):
            seconds = (waves.manager.stats.misses - before) * costs.runtime.missed_expert_s
            before = waves.manager.stats.misses
            for key, _ in wave:
                products_s = costs.products_s(self._products[key], counts[key.expert], by_vector=True)
                seconds += costs.runtime.expert_s + products_s
            self._compute(seconds)

    def _compute(self, seconds: float) -> None:
        self._mover.compute(seconds, self._costs.busy_share)

    def _acquire(self, group: GroupShape) -> None:
        if group.is_streamed and self._stream:
            self._compute(self._costs.runtime.group_s)
            waited_s = self._mover.stall_s
            self._stream.acquire(group.key)
            if self._mover.stall_s > waited_s:
                self._compute(self._costs.runtime.wake_s)

    def _release(self, group: GroupShape) -> None:
        if group.is_streamed and self._stream:
            self._stream.release(group.key)


def _write_nothing(slot: int, offset: int, start: int, stop: int) -> None:
    """There are no bytes."""


def _routed_passes(model: ModelShape, routing: Routing | None, passes: Sequence[int], batch: int) -> Sequence[Pass]:
    """The passes of the trace; none of a dense model. Raises TraceError where they are others than ``passes``."""
    if not model.experts:
        return ()
    if routing is None:
        raise TraceError(
            "a mixture of experts is replayed with a trace of its routing; record one with 'offload trace record'"
        )
    if len(routing.trace.tokens) != batch * sum(passes):
        found = f"{len(routing.trace.tokens)} tokens, the generation has passes of {batch * sum(passes)}"
        raise TraceError(f"the trace has passes of {found} in all; record the same prompt and as many new tokens")
    if batch == 1:
        # However a prompt was cut when it was recorded: what its tokens visit does not depend on it.
        numbers = np.repeat(np.arange(len(passes), dtype=np.int32), passes)
        return passes_of(replace(routing.trace, passes=numbers))
    return passes_of(routing.trace)
