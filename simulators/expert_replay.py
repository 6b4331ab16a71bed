"""Replays recorded routing against a cache and a predictor: what would have been hit. Counts only; there is no clock.

The order of operations is that of the runtime's store of experts: the gate has chosen, and the predictor says what it
expects of the layers ahead; those that are there are pinned; the missing ones are fetched, one by one; then what is
predicted is fetched ahead.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from prefetch.base import Prediction
from prefetch.budget import LinkEstimate, PrefetchBudget
from prefetch.expert_predictor import ExpertPredictor
from simulators.expert_trace import ExpertTrace
from simulators.expert_visits import Pass, passes_of, routings_of, tokens_of
from simulators.prediction_score import PredictionScore
from tiers.block import BlockKey, ExpertKey
from tiers.errors import BudgetError
from tiers.eviction.base import EvictionPolicy, Expected


@dataclass(frozen=True, slots=True)
class PrefetchLimits:
    """What a link and a budget would allow. ``per_step`` blocks arrive while one layer is computed."""

    per_step: int
    most: int
    """Blocks that were fetched ahead and not used yet."""
    least_probability: float = 0.8


@dataclass(slots=True)
class ReplayCounts:
    """Experts asked for, and what became of them. A block is fetched for a miss or ahead of its use."""

    hits: int = 0
    """There since an earlier use."""
    prefetch_hits: int = 0
    """There, or on their way, since they were predicted."""
    misses: int = 0
    wasted: int = 0
    """Fetched ahead and given up, or evicted, before any use."""

    @property
    def accesses(self) -> int:
        return self.hits + self.prefetch_hits + self.misses

    @property
    def hit_ratio(self) -> float:
        """Share of accesses that nobody had to wait for; 1 where there were none."""
        return (self.hits + self.prefetch_hits) / self.accesses if self.accesses else 1.0

    @property
    def fetched(self) -> int:
        """Blocks moved: what a cache is there to save."""
        return self.misses + self.prefetch_hits + self.wasted

    def add(self, other: "ReplayCounts") -> None:
        self.hits += other.hits
        self.prefetch_hits += other.prefetch_hits
        self.misses += other.misses
        self.wasted += other.wasted


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """``passes[i]`` are the counts of the i-th pass; ``score`` those of the predictor in decode passes."""

    passes: tuple[ReplayCounts, ...]
    is_decode: tuple[bool, ...]
    score: PredictionScore

    def counts(self, *, decode_only: bool = True) -> ReplayCounts:
        """The sum over the decode passes, or over all."""
        total = ReplayCounts()
        for counts, is_decode in zip(self.passes, self.is_decode, strict=True):
            if is_decode or not decode_only:
                total.add(counts)
        return total


def replay(
    trace: ExpertTrace,
    policy: EvictionPolicy[BlockKey],
    predictor: ExpertPredictor | None = None,
    limits: PrefetchLimits | None = None,
    *,
    passes: Sequence[Pass] | None = None,
) -> ReplayResult:
    """Drive ``policy``, of as many slots as its capacity, over a trace.

    A ``predictor`` is told what happens and its guesses are scored; a policy that goes by forecasts gets them; with
    ``limits`` what it names is fetched ahead. ``passes`` saves the work of ``passes_of`` where a trace is replayed more
    than once. Raises BudgetError where a token's experts of one layer do not fit.
    """
    passes = passes_of(trace) if passes is None else passes
    largest = max((len(visit) for one in passes if one.is_decode for visit in one.visits), default=1)
    if policy.capacity < largest:
        raise BudgetError(
            f"{policy.capacity} slots do not hold the {largest} experts that one visit needs; give at least as many",
            wanted_bytes=largest,
            available_bytes=policy.capacity,
        )
    cache = _Cache(policy, limits)
    score = PredictionScore()
    counts = []
    for one in passes:
        cache.counts = ReplayCounts()
        if predictor is None:
            for visit in one.visits:
                cache.visit(visit)
        else:
            _predicted_pass(trace, one, cache, predictor, score)
        counts.append(cache.counts)
    return ReplayResult(tuple(counts), tuple(one.is_decode for one in passes), score)


def _predicted_pass(
    trace: ExpertTrace, one: Pass, cache: "_Cache", predictor: ExpertPredictor, score: PredictionScore
) -> None:
    predictor.begin(tokens_of(trace, one), one.position)
    for visit, routing in zip(one.visits, routings_of(trace, one), strict=True):
        predictor.observe(routing)
        predictions = predictor.predict(routing.layer)
        if one.is_decode:
            score.needed(routing.layer, visit)
        score.predicted(routing.layer, predictions)
        cache.foresee(routing.layer, predictions)
        cache.visit(visit)
        cache.prefetch(predictions)


class _Cache:
    """Slots, what is held by the visit under way, and what was fetched ahead."""

    def __init__(self, policy: EvictionPolicy[BlockKey], limits: PrefetchLimits | None) -> None:
        self._policy = policy
        self._budget: PrefetchBudget[BlockKey] | None = None
        if limits is not None:
            link = LinkEstimate(bytes_per_s=max(limits.per_step, 1e-9), step_s=1.0)
            self._budget = PrefetchBudget(link, 1, limits.most, least_probability=limits.least_probability)
        self._held: dict[BlockKey, None] = {}
        self._ahead: AbstractSet[BlockKey] = self._budget.outstanding if self._budget else frozenset()
        self.counts = ReplayCounts()

    def visit(self, keys: Sequence[ExpertKey]) -> None:
        """Use these, each once, all of them pinned together as far as there is room."""
        policy, held, counts = self._policy, self._held, self.counts
        held.clear()
        missing = []
        for key in keys:
            if key not in policy:
                missing.append(key)
                continue
            counts.prefetch_hits += key in self._ahead
            counts.hits += key not in self._ahead
            if self._budget:
                self._budget.settle(key)
            held[key] = None
            policy.touch(key)
        counts.misses += len(missing)
        for key in missing:
            self._make_room()
            policy.insert(key)
            held[key] = None

    def foresee(self, step: int, predictions: Sequence[Prediction[BlockKey]]) -> None:
        """Pass predictions on as a forecast."""
        self._policy.forecast(
            step, ((key, Expected(p.probability, p.needed_in_steps)) for p in predictions for key in p.keys)
        )

    def prefetch(self, predictions: Sequence[Prediction[BlockKey]]) -> None:
        """Fetch ahead what the budget admits."""
        if self._budget is None:
            return
        self._give_up(self._budget.stale(predictions))
        policy = self._policy
        for key in self._budget.admit(predictions, lambda keys: [k for k in keys if k not in policy]):
            protected = {**self._held, **dict.fromkeys(self._ahead)}
            if len(policy) == policy.capacity and not policy.evict(1, protected.keys()):
                self._budget.settle(key)
            else:
                policy.insert_ahead(key)

    def _make_room(self) -> None:
        policy = self._policy
        if len(policy) < policy.capacity:
            return
        protected = {**self._held, **dict.fromkeys(self._ahead)} if self._ahead else self._held
        if policy.evict(1, protected.keys()):
            return
        if self._ahead:
            self._give_up(list(self._ahead))
            if policy.evict(1, self._held.keys()):
                return
        # A visit of more experts than slots: those that were computed first make room.
        self._held.pop(next(iter(self._held)))
        policy.evict(1, self._held.keys())

    def _give_up(self, keys: Sequence[BlockKey]) -> None:
        assert self._budget is not None
        for key in keys:
            self._budget.settle(key)
        self.counts.wasted += len(keys)
