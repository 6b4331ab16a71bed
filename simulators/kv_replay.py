"""Replays requests through the memory manager that ships, in virtual time.

For each request: the blocks of its prompt that some level holds are loaded, the others are computed and stored; then
its answer is generated. One request after the other has the device, whenever it came (``kv_serving`` keeps to the times
of the trace); loads, write-backs and computation overlap as the links and the manager allow. A block counts as a hit on
any level, wherever in the prefix it is.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from prefetch.load_gate import Gate, blocks_to_recompute
from simulators.kv_trace.base import KeyTable, KVTrace, Request
from simulators.modelled_mover import ModelledMover
from tiers.block import BlockKey
from tiers.errors import BudgetError
from tiers.manager import TieredMemoryManager


class ServingCosts(Protocol):
    """What computing costs, in seconds."""

    @property
    def waits_for_moves(self) -> bool:
        """Whether each request begins when nothing moves any more, rather than as soon as the device is free."""
        ...

    def prefill_s(self, new_tokens: int, context_tokens: int) -> float:
        """``new_tokens`` of a prompt behind ``context_tokens`` whose keys and values are there."""
        ...

    def decode_s(self, tokens: int, context_tokens: int) -> float:
        """One request's share of the time in which ``tokens`` of it are generated, the first at this context."""
        ...

    def step_s(self, num_requests: int, context_tokens: float) -> float:
        """One token for each of some requests side by side, which have this context on average."""
        ...


class FreeOfCost:
    """For counting hits: computing takes no time.

    Nobody would wait for what is written back meanwhile, and a cache drops what its drive cannot take in no time: so
    each request begins when nothing moves any more. Times then are those of the moves alone.
    """

    waits_for_moves: ClassVar[bool] = True

    def prefill_s(self, new_tokens: int, context_tokens: int) -> float:
        """None."""
        return 0.0

    def decode_s(self, tokens: int, context_tokens: int) -> float:
        """None."""
        return 0.0

    def step_s(self, num_requests: int, context_tokens: float) -> float:
        """None."""
        return 0.0


class ReplayObserver(Protocol):
    """Somebody who looks on."""

    def prompt_computed(self, keys: Sequence[BlockKey], held: Sequence[BlockKey]) -> None:
        """A request that asked for ``keys``, of which some level had ``held``, has just got its first token.

        In the order of the trace, which requests side by side do not keep to their ends.
        """
        ...


@dataclass(slots=True)
class KVReplayResult:
    """What a replay counted. Times are virtual."""

    num_requests: int = 0
    accesses: int = 0
    hits: int = 0
    """Blocks that some level held."""
    device_hits: int = 0
    """Of these, blocks that were on level 0 already."""
    prefix_hits: int = 0
    """Of the hits, those before the first miss of their request: all that a server without gaps in prefixes can use."""
    recomputed: int = 0
    """Of the hits, blocks that were computed again since that was sooner than to load them."""
    output_tokens: int = 0
    elapsed_s: float = 0.0
    compute_s: float = 0.0
    stall_s: float = 0.0
    """Seconds in which the device waited for blocks."""
    link_nbytes: dict[str, int] = field(default_factory=dict)
    ttft_s: list[float] = field(default_factory=list)
    """Of each request, from the moment at which it came to its first token."""
    queue_s: list[float] = field(default_factory=list)
    """Of these, the time until it had the device. None where a request comes as soon as the one before is done."""

    @property
    def hit_ratio(self) -> float:
        """Of all accesses; 0 where there were none."""
        return self.hits / self.accesses if self.accesses else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens per second; infinite where nothing took any time."""
        return self.output_tokens / self.elapsed_s if self.elapsed_s else float("inf")


def replay_requests(
    trace: KVTrace,
    manager: TieredMemoryManager,
    mover: ModelledMover,
    costs: ServingCosts | None = None,
    *,
    gate: Gate = Gate.LOAD,
    table: KeyTable | None = None,
    observer: ReplayObserver | None = None,
) -> KVReplayResult:
    """Replay a whole trace; the manager is to forget what it has no room for (``is_cache``).

    ``gate`` says what becomes of blocks below the device. ``table`` saves the making of keys where the same trace is
    replayed more than once. Raises TraceError, and BudgetError where the device does not hold the prompt of a request.
    """
    costs = costs or FreeOfCost()
    replay = PromptReplay(manager, mover, costs, trace.block_tokens, gate, table, observer)
    for request in trace.requests:
        replay.prefill(request, mover.clock.now_s)
        decode_s = costs.decode_s(tokens_to_decode(request), request.input_tokens)
        replay.result.compute_s += mover.decode(decode_s)
    return replay.finish()


def tokens_to_decode(request: Request) -> int:
    """Of its answer; the first token comes out of the prompt."""
    return max(0, request.output_tokens - 1)


class PromptReplay:
    """What becomes of prompts, one after the other; ``result`` counts it."""

    def __init__(
        self,
        manager: TieredMemoryManager,
        mover: ModelledMover,
        costs: ServingCosts,
        block_tokens: int,
        gate: Gate,
        table: KeyTable | None = None,
        observer: ReplayObserver | None = None,
    ) -> None:
        self.result = KVReplayResult()
        self._manager = manager
        self._mover = mover
        self._costs = costs
        self._block_tokens = block_tokens
        self._gate = gate
        self._table = KeyTable() if table is None else table
        self._observer = observer
        self._start_s, self._start_stall_s = mover.clock.now_s, mover.stall_s
        self._start_hits = manager.stats.hits

    def keys(self, request: Request) -> list[BlockKey]:
        """The blocks of its prompt; BudgetError if the device could not hold them."""
        keys = self._table.keys(request.blocks)
        num_slots = self._manager.levels[0].pool.num_slots
        if len(keys) > num_slots:
            raise _too_large(len(keys), num_slots, len(self.result.queue_s), self._manager)
        return keys

    def prefill(
        self, request: Request, came_s: float, meanwhile: Callable[[], object] = lambda: None
    ) -> list[BlockKey]:
        """Load and compute a prompt, up to the first token of the answer. Its blocks are on the device, not pinned.

        ``meanwhile`` is called when the slots of all its blocks are taken and the computing begins.
        """
        manager, clock, costs, result = self._manager, self._mover.clock, self._costs, self.result
        keys = self.keys(request)
        result.queue_s.append(clock.now_s - came_s)
        held = manager.held(keys)
        again = [] if self._gate is Gate.LOAD else self._again(request, keys, held)
        loaded = _others(held, again) if again else held
        if loaded:
            manager.prepare_load(loaded)
        if again:
            # Making room for those may have dropped others, which nobody holds now.
            again = manager.held(again)
            held = _others(keys, _others(keys, [*loaded, *again]))
        new = _others(keys, held)
        prefill_s = 0.0
        if again:
            # While the others are on their way.
            manager.prepare_again(again)
            tokens = self._num_tokens(request, keys, again)
            prefill_s = costs.prefill_s(tokens, keys.index(again[0]) * self._block_tokens)
            clock.advance(prefill_s)
            result.recomputed += len(again)
        if loaded:
            manager.complete_load(loaded)
        manager.prepare_store(new)
        meanwhile()
        new_tokens = request.input_tokens - self._num_tokens(request, keys, held)
        if not new_tokens and not (again and again[-1] == keys[-1]):
            # Its blocks say nothing of what comes after a prompt: for that its last token is computed again.
            new_tokens = min(1, request.input_tokens)
        rest_s = costs.prefill_s(new_tokens, request.input_tokens - new_tokens)
        clock.advance(rest_s)
        # All that was computed stays open until here: made, and not used besides.
        if again:
            manager.complete_store(again)
        manager.complete_store(new)
        if loaded:
            manager.release(loaded)
        result.ttft_s.append(clock.now_s - came_s)
        result.num_requests += 1
        result.accesses += len(keys)
        result.hits += len(held)
        result.prefix_hits += len(held) if keys[: len(held)] == held else _num_alike(keys, held)
        result.output_tokens += request.output_tokens
        result.compute_s += prefill_s + rest_s
        if self._observer is not None:
            self._observer.prompt_computed(keys, held)
        if costs.waits_for_moves:
            self._mover.rest()
        return keys

    def finish(self) -> KVReplayResult:
        """The result of all of them."""
        result = self.result
        result.device_hits = self._manager.stats.hits - self._start_hits
        result.elapsed_s = self._mover.clock.now_s - self._start_s
        result.stall_s = self._mover.stall_s - self._start_stall_s
        result.link_nbytes = {name: use.nbytes for name, use in self._mover.links.items()}
        return result

    def _num_tokens(self, request: Request, keys: list[BlockKey], some: list[BlockKey]) -> int:
        """Of some blocks of a prompt, in its order. The last one of the prompt may be short; what follows has none."""
        tokens = len(some) * self._block_tokens
        if some and some[-1] == keys[-1]:
            tokens -= max(0, len(keys) * self._block_tokens - request.input_tokens)
        return min(max(0, tokens), request.input_tokens)

    def _again(self, request: Request, keys: list[BlockKey], held: list[BlockKey]) -> list[BlockKey]:
        """The blocks below the device that are to be computed rather than loaded."""
        manager = self._manager
        below = manager.missing(held)
        if not below or self._gate is Gate.RECOMPUTE:
            return below
        context = keys.index(below[0]) * self._block_tokens
        names = [level.tier.name for level in manager.levels]
        sources = manager.sources(below)
        nbytes = manager.levels[0].tier.block_nbytes

        def load_s(first: int) -> float:
            counts = Counter(sources[first:])
            seconds = (self._mover.seconds(names[source], names[0], n, n * nbytes) for source, n in counts.items())
            return max(seconds, default=0.0)

        def compute_s(n: int) -> float:
            return self._costs.prefill_s(self._num_tokens(request, keys, below[:n]), context)

        return below[: blocks_to_recompute(len(below), compute_s, load_s)]


def _others(keys: list[BlockKey], held: list[BlockKey]) -> list[BlockKey]:
    """Those that are not held; what is held is most often a prefix."""
    if keys[: len(held)] == held:
        return keys[len(held) :]
    there = set(held)
    return [key for key in keys if key not in there]


def _num_alike(keys: Sequence[object], held: Sequence[object]) -> int:
    return next(i for i, (key, other) in enumerate(zip(keys, held, strict=False)) if key != other)


def _too_large(wanted: int, available: int, number: int, manager: TieredMemoryManager) -> BudgetError:
    nbytes = manager.levels[0].tier.block_nbytes
    return BudgetError(
        f"request {number + 1} has {wanted} blocks, level '{manager.levels[0].tier.name}' has {available} slots; "
        f"give it at least {wanted * nbytes:,} bytes",
        wanted_bytes=wanted * nbytes,
        available_bytes=available * nbytes,
    )
